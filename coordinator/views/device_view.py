"""A device as people see it: what the ledger holds of it, with nothing copied by hand.

A field of `DeviceRow` is a key of the JSON that `status`, `devices` and the page give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from coordinator.ledger.device_rows import DeviceRow, RefusalRow
from coordinator.views.layers import View
from coordinator.views.round_view import TaskView

__all__ = ["UNREAD", "DeviceHistory", "DeviceTest", "DeviceView", "device_json"]

UNREAD = "its data cannot be read:"
UNTESTED = "its last test:"
UNSHOWN = frozenset(
    {"profile", "seen_s", "data_first"}
)  # shown by itself; of this moment


@dataclass(frozen=True, slots=True)
class DeviceView(DeviceRow):
    """One device: what the ledger holds of it, and how long ago it was heard of."""

    seen_s: float | None = None  # seconds; None if it is not known

    @property
    def is_revoked(self) -> bool:
        """True if the device's keys are revoked."""
        return self.phase == "revoked"

    @property
    def reasons(self) -> str:
        """Reasons for its density and for partial rounds, and what its data do."""
        return "; ".join(filter(None, (self.why, self.pace, self.drift, self.failing)))

    @property
    def failing(self) -> str:
        """Faults of its data and its tests, in words; empty if there are none."""
        data = f"{UNREAD} {self.data_error}" if self.data_error else ""
        test = f"{UNTESTED} {self.test_error}" if self.test_error else ""
        return "; ".join(filter(None, (data, test)))

    def at(self, now: datetime) -> DeviceView:
        """The same with the time since it was last heard of."""
        silent = now - datetime.fromisoformat(self.last_seen)
        return replace(self, seen_s=max(silent.total_seconds(), 0.0))


@dataclass(frozen=True, slots=True)
class DeviceTest:
    """One round's model on a device's test examples."""

    round: int  # the round that gave the model
    density: float  # of the model
    examples: int  # tested on
    metrics: Mapping[str, float | None]  # by name; None where there is no value
    why: str  # why something is missing; empty if nothing is


@dataclass(frozen=True, slots=True)
class DeviceHistory(View):
    """One device with its past."""

    device: DeviceView  # as it is now
    profile: Sequence[tuple[str, str]]  # as it sent it: name and value
    tasks: Sequence[TaskView]  # the newest first
    refusals: Sequence[RefusalRow]  # its verdicts, the newest first
    tests: Sequence[DeviceTest] = ()  # of models on its own examples, the newest first

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return View.as_json(self) | {"device": device_json(self.device)}


def device_json(device: DeviceRow) -> dict[str, Any]:
    """One device as plain values; ``waits`` is its `note`."""
    found: dict[str, Any] = msgspec.to_builtins(device)
    found["waits"] = found.pop("note")
    return {key: value for key, value in found.items() if key not in UNSHOWN}
