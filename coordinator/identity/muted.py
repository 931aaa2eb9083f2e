"""Devices that are refused by the broker for a while, because they flood.

What floods is left unheard, but it has to be received first, and a coordinator receives
some thousand packets a second. A broker refuses many times that without a queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Muted"]

REST_S = (60.0, 3600.0)  # the first time, and at most; each time twice as long
FORGET_S = 24 * 3600.0  # after so long without a flood a device begins anew


class Muted:
    """Names, and until when; told by one thread, read by another.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, tuple[float, float]] = {}  # name -> until, its rest

    def mute(self, name: str) -> float:
        """Takes a device's rights for a while; for how many seconds.

        Said again while it rests, nothing changes.
        """
        now = self._clock()
        with self._lock:
            until, rest = self._until.get(name, (0.0, 0.0))
            if until > now:
                return until - now
            again = rest and now - until < FORGET_S
            rest = min(2 * rest, REST_S[1]) if again else REST_S[0]
            self._until[name] = now + rest, rest
            return rest

    def names(self) -> frozenset[str]:
        """Devices that rest at this moment."""
        now = self._clock()
        with self._lock:
            return frozenset(n for n, (until, _) in self._until.items() if until > now)
