"""The newest status of each device, and when it is written to the ledger."""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from coordinator.ledger import Ledger
from coordinator.ledger.device_rows import added_columns
from edge_sdk.wire.messages import Status

__all__ = ["StatusRecords", "or_none"]

T = TypeVar("T")
log = logging.getLogger(__name__)


class StatusRecords:
    """The newest status of each device; what people see of it is in the ledger.

    A device says several in a round, and a row was half of the ledger's work for an
    update. So a status is written by the next `write`, unless a newer one came before;
    what a crash takes with it is said again.

    Args:
        ledger: Where devices are recorded.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._newest: dict[str, Status] = {}
        self._unwritten: set[str] = set()
        self._notes: dict[str, str] = {}  # as the ledger has them
        self._warned: dict[str, str] = {}  # the last error of each device's data

    def __contains__(self, device: str) -> bool:
        return device in self._newest

    def get(self, device: str) -> Status | None:
        """The newest status of a device."""
        return self._newest.get(device)

    def take(self, device: str, status: Status) -> None:
        """Takes a status that is newer; its engine is unknown until it has trained."""
        before = self._newest.get(device)
        if before is not None and before.engine and not status.engine:
            status = msgspec.structs.replace(status, engine=before.engine)
        if status.online and status.data_error is not UNSET:
            self._warn(device, status.data_error)
        self._newest[device] = status
        self._unwritten.add(device)

    def _warn(self, device: str, why: str) -> None:
        if self._warned.get(device) != why:
            self._warned[device] = why
            log.warning(
                "the data of %s cannot be read anew: %s",
                *(device, why),
                extra={"device": device},
            )

    def note(self, device: str, said: str) -> str:
        """Records what a device waits for; returns what it was before."""
        before = self._notes.get(device)
        if before is None:
            before = self._ledger.note_of(device)
        if said != before:
            self._ledger.note(device, said)
        self._notes[device] = said
        return before

    def hello(self, device: str) -> None:
        """A device may have its first row from now on."""
        self._notes.pop(device, None)

    def forget(self, device: str) -> None:
        """Writes the status of a device that is gone, and keeps it no more."""
        self._write(device)
        self._newest.pop(device, None)
        self._notes.pop(device, None)

    def all_offline(self) -> None:
        """Marks every device as offline until it, or its broker, says otherwise."""
        self.write()
        for device, status in self._newest.items():
            self._newest[device] = msgspec.structs.replace(status, online=False)
        self._ledger.nobody_online()

    def online(self) -> set[str]:
        """Devices whose last status says so."""
        return {d for d, status in self._newest.items() if status.online}

    def write(self) -> None:
        """Writes what is newer than the ledger, in its open group."""
        for device in sorted(self._unwritten):
            self._write(device)

    def _write(self, device: str) -> None:
        if device not in self._unwritten:
            return
        self._unwritten.discard(device)
        named = msgspec.structs.asdict(self._newest[device]).items()
        columns = {k: or_none(v) for k, v in named if k in added_columns()}
        self._ledger.count_traffic(device, **columns)


def or_none(value: T | UnsetType) -> T | None:
    """None in place of a field that is absent."""
    return None if value is UNSET else value
