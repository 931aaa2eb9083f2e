"""Sockets that MQTT can be spoken on: TCP by a proxy or without, TLS, WebSocket."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

import paho.mqtt.client as paho

from edge_sdk.transport.address import Address
from edge_sdk.transport.proxy import dial
from edge_sdk.transport.tcp import cut_after

__all__ = ["connected", "secured"]


def connected(
    address: Address, context: ssl.SSLContext | None, timeout_s: float
) -> Any:
    """A socket that MQTT can be spoken on: TCP, then TLS, then WebSocket.

    Args:
        address: The broker.
        context: Of TLS; None for a plain link.
        timeout_s: For each of the steps, and for reading afterwards.

    Raises:
        OSError: Nobody listens there, or it speaks something else.
        ProxyError: The proxy makes no connection.
    """
    link = dial(address, timeout_s)
    try:
        link = secured(link, address, context, timeout_s)
        if not address.path:
            return link
        with cut_after(link, timeout_s):
            return _WebSocket(
                socket=link,
                host=f"[{address.host}]" if ":" in address.host else address.host,
                port=address.port,
                is_ssl=context is not None,
                path=address.path,
                extra_headers=None,
            )
    except paho.WebsocketConnectionError as error:
        link.close()
        raise ConnectionError(
            f"what listens there speaks no MQTT over WebSocket at {address.path}: "
            "check the path in the broker's URL"
        ) from error
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


class _WebSocket(paho._WebsocketWrapper):  # noqa: SLF001
    """paho's WebSocket, with every frame masked, and a chunk in one operation.

    paho answers a ping by a frame without a mask, for which a server has to end the
    link (RFC 6455, section 5.1). Masking 64 KiB byte by byte takes it 8 ms on a fast
    core, and many times that on a board's.
    """

    def _create_frame(
        self, opcode: int, data: bytearray, do_masking: int = 1
    ) -> bytearray:
        size = len(data)
        key = os.urandom(4)
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
        masked = (int.from_bytes(data, "little") ^ mask).to_bytes(size, "little")
        frame = super()._create_frame(opcode, bytearray(size), 0)
        head = frame[: len(frame) - size]
        head[1] |= 0x80
        return head + key + masked

    def sendall(self, data: bytes) -> None:
        """Sends one message whole."""
        while not self.send(data):
            pass

    def getsockopt(self, *asked: int) -> Any:
        """Of the TCP connection, whose bytes the kernel counts."""
        return self._socket.getsockopt(*asked)
