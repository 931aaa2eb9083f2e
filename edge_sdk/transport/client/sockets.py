"""Sockets that MQTT can be spoken on: TCP by a proxy or without, TLS, WebSocket.

They are made here, and left in good order.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any

from edge_sdk.transport.address import Address
from edge_sdk.transport.client.web_socket import WebSocket
from edge_sdk.transport.proxy import dial
from edge_sdk.transport.tcp import cut_after

__all__ = ["READ", "connected", "leave", "secured"]

READ = 256 * 1024  # bytes; four chunks


def connected(
    address: Address, context: ssl.SSLContext | None, timeout_s: float
) -> Any:
    """A socket that MQTT can be spoken on: TCP, then TLS, then WebSocket.

    Args:
        address: The broker.
        context: Of TLS; None for a plain link.
        timeout_s: For each of the steps, and for reading afterwards.

    Raises:
        OSError: Nobody listens there.
        RefusedError: It speaks something else.
        ProxyError: The proxy makes no connection.
    """
    link = dial(address, timeout_s)
    try:
        link = secured(link, address, context, timeout_s)
        if not address.path:
            return link
        with cut_after(link, timeout_s):
            return WebSocket(
                socket=link,
                host=f"[{address.host}]" if ":" in address.host else address.host,
                port=address.port,
                is_ssl=context is not None,
                path=address.path,
                extra_headers=None,
            )
    except BaseException:
        link.close()
        raise


def secured(
    link: socket.socket,
    address: Address,
    context: ssl.SSLContext | None,
    timeout_s: float,
) -> socket.socket:
    """The connection with TLS on it, if the address asks for it; closed on an error.

    Raises:
        OSError: If the handshake fails, or takes longer.
    """
    link.settimeout(timeout_s)
    if context is None:
        return link
    found = context.wrap_socket(
        link, server_hostname=address.host, do_handshake_on_connect=False
    )
    try:
        found.do_handshake()
    except BaseException:
        found.close()
        raise
    return found


def leave(link: Any, within_s: float) -> None:
    """Says that nothing more comes, and reads until the other end has closed.

    A socket that is closed at once answers whatever arrives later by a reset: a broker
    that is about to send more then drops what it has not read, our last messages. The
    socket stays open; its caller closes it.

    Args:
        link: Made by `connected`.
        within_s: Seconds that are waited for the other end.
    """
    until = time.monotonic() + within_s
    below: socket.socket = link.below if isinstance(link, WebSocket) else link
    with contextlib.suppress(OSError, ValueError):  # it is gone already
        below.shutdown(socket.SHUT_WR)
        while (left := until - time.monotonic()) > 0:
            below.settimeout(left)
            if not below.recv(READ):
                return
