"""Waking of paho's network thread, once for all that waits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

__all__ = ["MOST_TOGETHER", "Waker", "together", "wake"]

MOST_TOGETHER = 64  # packets that wait for each other; a broker may send 256 ahead


class _Held(threading.local):
    """Packets of the present thread that wake nobody yet; None outside a block."""

    wakers: dict[Waker, int] | None = None


_HELD = _Held()


class Waker:
    """The end of paho's pair of sockets that wakes the network thread.

    paho writes a byte for each packet: the orders of a round woke it a hundred times,
    which was the largest single item of a round without training.

    Attributes:
        woken: Whether the thread is on its way to look at all that waits.
        waits: Whether something may wait that the thread was not woken for.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end, self.woken, self.waits = end, False, False

    def looks(self) -> None:
        """The thread is about to look at all that waits."""
        self.woken = self.waits = False

    def send(self, data: bytes) -> int:
        """Wakes the thread, unless it is on its way or `together` wakes it later."""
        if self.woken:
            return 0
        held = _HELD.wakers
        if held is not None:
            self.waits = True  # after its packet, so that a look finds that or this
            held[self] = count = held.get(self, 0) + 1
            if count < MOST_TOGETHER:
                return 0
            held[self] = 0
        self.woken = True
        return self._end.send(data)

    def close(self) -> None:
        """Closes the end."""
        self._end.close()


@contextlib.contextmanager
def together() -> Iterator[dict[Waker, int]]:
    """Has what the calling thread sends go out together, `MOST_TOGETHER` at a time.

    To wake a network thread costs about as much as to make a packet, and takes it the
    interpreter's lock meanwhile. Nobody may wait inside the block for what it sends.

    Yields:
        Packets that wait, by the network thread's waker, for `wake`; empty for none.
    """
    outer, _HELD.wakers = _HELD.wakers, (held := dict[Waker, int]())
    try:
        yield held
    finally:
        _HELD.wakers = outer
        _tell(held)


def wake(held: dict[Waker, int]) -> None:
    """Wakes the network threads whose packets wait, now; none wait after it."""
    outer, _HELD.wakers = _HELD.wakers, None
    _tell(held)
    held.clear()
    _HELD.wakers = outer


def _tell(held: dict[Waker, int]) -> None:
    for waker in held:
        if waker.waits:
            with contextlib.suppress(OSError):  # full, or its link has ended
                waker.send(b"0")
