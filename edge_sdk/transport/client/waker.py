"""Waking of paho's network thread, once for all that waits."""

from __future__ import annotations

import socket

__all__ = ["Waker"]


class Waker:
    """The end of paho's pair of sockets that wakes the network thread.

    paho writes a byte for each packet: the orders of a round woke it a hundred times,
    which was the largest single item of a round without training.

    Attributes:
        woken: Whether the thread is on its way to look at all that waits.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end, self.woken = end, False

    def send(self, data: bytes) -> int:
        """Wakes the thread, unless it is on its way."""
        if self.woken:
            return 0
        self.woken = True
        return self._end.send(data)

    def close(self) -> None:
        """Closes the end."""
        self._end.close()
