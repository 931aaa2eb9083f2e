"""Bytes on the wire, as the kernel counts them."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

from edge_sdk.transport.base import Traffic

__all__ = ["Meter"]

_TCP_INFO_BYTES = struct.Struct("@QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_TCP_INFO_OFFSET = 120  # since Linux 4.1, linux/tcp.h


class Meter:
    """Bytes over all sockets of one transport, from the kernel's TCP_INFO."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: Any = None
        self._sent = self._received = 0

    def attach(self, sock: Any) -> None:
        """Counts on this socket from now on."""
        with self._lock:
            self._socket = sock

    def settle(self) -> None:
        """Adds up a socket that is about to close."""
        with self._lock:
            sent, received = self._live()
            self._sent += sent
            self._received += received
            self._socket = None

    def read(self) -> Traffic:
        """Bytes over all sockets so far; 0, 0 where the kernel does not count."""
        with self._lock:
            sent, received = self._live()
            return Traffic(self._sent + sent, self._received + received)

    def _live(self) -> tuple[int, int]:
        if self._socket is None or not hasattr(socket, "TCP_INFO"):
            return 0, 0
        try:
            raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            acked, received = _TCP_INFO_BYTES.unpack_from(raw, _TCP_INFO_OFFSET)
        except (OSError, struct.error):  # closed, or a kernel before 4.1
            return 0, 0
        return max(acked - 1, 0), received  # the SYN counts as one byte
