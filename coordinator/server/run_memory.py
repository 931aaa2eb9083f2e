"""Storage that a run's models are made from, and a round's updates in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, clipped
from coordinator.ledger import RoundRow, UpdateRow
from coordinator.rounds.validation import read_update

__all__ = ["RunMemory", "StoredUpdates"]


class RunMemory(Protocol):
    """Storage that a run's models are made from: a ledger, or a simulation's."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        ...

    def get(self, key: str) -> Any:
        """A stored JSON value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        ...

    def blob(self, name: str) -> bytes:
        """The payload that an `UpdateRow` names."""
        ...

    def rounds(self) -> list[RoundRow]:
        """Every round, in order."""
        ...

    def last_counted(self, before: int) -> dict[str, str]:
        """Device -> its last task whose update is in an earlier round's model."""
        ...


class StoredUpdates:
    """A round's updates, read from the disk one at a time, as often as wanted."""

    def __init__(
        self,
        ledger: RunMemory,
        rows: Sequence[UpdateRow],
        family: MaskFamily,
        rate: Callable[[int], float] = lambda _steps: 0.0,
        known: Collection[str] = (),
    ) -> None:
        self._ledger, self._rows, self._family = ledger, rows, family
        self._rate, self._known = rate, known

    def __iter__(self) -> Iterator[Contribution]:
        for row in self._rows:
            start = self._family.of(row.device, row.density)
            mask, change = read_update(self._ledger.blob(row.blob), start)
            cut = clipped(change, row.scale)
            yield Contribution(
                *(row.device, mask, row.weight, cut),
                total_rate=self._rate(int(row.metrics.get("steps", 0))),
                first=row.device not in self._known,
            )
