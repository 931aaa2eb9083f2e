"""Hours and batteries of devices, as their last status told, by now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from msgspec import UNSET

from coordinator.ledger import Ledger
from coordinator.rounds.cohort import Candidate
from edge_sdk.wire.messages import Status

__all__ = ["OwnerLimits"]


class OwnerLimits:
    """Hours that are left and charge of each device, by its last status.

    Args:
        ledger: It knows whose updates counted.
        clock: Monotonic seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger, self._clock = ledger, clock
        self._closes: dict[str, float] = {}  # when its owner's hours end
        self._charge: dict[str, int] = {}

    def take(self, device: str, status: Status) -> None:
        """Take a status over; one of a device that goes is its last word."""
        self._closes.pop(device, None)
        self._charge.pop(device, None)
        if status.online and status.open_min is not UNSET:
            self._closes[device] = self._clock() + 60.0 * status.open_min
        if status.online and status.battery is not UNSET:
            self._charge[device] = status.battery

    def left_s(self, device: str) -> float:
        """Seconds until a device's owner's hours end; inf where they do not."""
        return max(self._closes.get(device, math.inf) - self._clock(), 0.0)

    def candidates(self, devices: Iterable[str]) -> dict[str, Candidate]:
        """Values that a fair cohort is chosen by, of each device that may be asked."""
        counted = self._ledger.rounds_counted()
        return {
            d: Candidate(d, counted.get(d, 0), self.left_s(d), self._charge.get(d))
            for d in devices
        }
