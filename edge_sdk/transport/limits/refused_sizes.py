"""Sizes of messages that a broker has refused, and when one may be tried again."""

from __future__ import annotations

import time

from edge_sdk.transport.limits.values import NO_LIMIT

__all__ = ["RefusedSizes"]

TRY_AGAIN_S = (60.0, 900.0)  # what the broker refused as too large: at first, at last


class RefusedSizes:
    """Sizes that the broker has refused, and when one may be tried again.

    A person may have raised the limit without starting the broker anew; so it is tried
    again, after a wait that doubles.
    """

    def __init__(self) -> None:
        self._size, self._wait_s, self._next = NO_LIMIT, TRY_AGAIN_S[0], 0.0

    def note(self, size: int) -> None:
        """The broker has refused a message of this size."""
        self._size = min(self._size, size)
        self._next = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, TRY_AGAIN_S[1])

    def may_try(self, size: int) -> bool:
        """Return whether a message that is too large may be sent all the same."""
        if size < self._size or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._wait_s
        return True
