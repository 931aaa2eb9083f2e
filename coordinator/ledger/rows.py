"""Rows of the ledger, as frozen values."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from coordinator.ledger.database import damaged
from coordinator.rounds.state import RoundPhase, TaskPhase
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.json_text import floats_from_json
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder

__all__ = ["RefusalRow", "RoundRow", "TaskRow", "UpdateRow", "read_order"]


def read_order(packed: bytes, task: str, folder: Path) -> TaskOrder:
    """An order as it lies in the ledger.

    Raises:
        StateError: If it is damaged.
    """
    try:
        return unpack(packed, TaskOrder)
    except RemoteProtocolError as error:
        raise damaged(folder / "ledger.sqlite", f"task {task}: {error}") from error


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round as recorded."""

    no: int
    phase: RoundPhase
    goal: int
    quorum: int
    rate: float
    base: str
    model: str | None
    note: str

    @classmethod
    def read(cls, row: sqlite3.Row) -> RoundRow:
        """From a row of `rounds`."""
        return cls(
            row["no"],
            RoundPhase(row["phase"]),
            row["goal"],
            row["quorum"],
            row["rate"],
            row["base"],
            row["model"],
            row["note"],
        )


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One device's task as recorded.

    Attributes:
        order_bytes: The packed `TaskOrder`.
        base_bytes: Size of the base it starts from.
    """

    id: str
    round_no: int
    device: str
    density: float
    phase: TaskPhase
    order_bytes: bytes
    base_bytes: int = 0

    def order(self, folder: Path) -> TaskOrder:
        """The order that was sent.

        Args:
            folder: The run's, for the message.

        Raises:
            StateError: If the row is damaged.
        """
        return read_order(self.order_bytes, self.id, folder)

    @classmethod
    def read(cls, row: sqlite3.Row) -> TaskRow:
        """From a row of `tasks`."""
        return cls(
            row["id"],
            row["round"],
            row["device"],
            row["density"],
            TaskPhase(row["phase"]),
            row["order_bytes"],
            row["base_bytes"],
        )


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """One accepted update; the blob is a file of that name.

    Attributes:
        task: The task it answers.
        device: Whose it is.
        density: Density of the mask it stands on.
        blob: Name of its payload.
        examples: Its weight, as the device said it.
        norm: L2 norm of the change, as the gate measured it.
        metrics: What the device measured.
        scale: Factor on its change, fixed at the freeze.
        weight: Its weight in the mean, fixed at the freeze.
    """

    task: str
    device: str
    density: float
    blob: str
    examples: int
    norm: float
    metrics: dict[str, float]
    scale: float
    weight: float

    @classmethod
    def read(cls, row: sqlite3.Row) -> UpdateRow:
        """From a row of `updates` joined with its task's density."""
        return cls(
            row["task"],
            row["device"],
            row["density"],
            row["blob"],
            row["examples"],
            row["norm"],
            floats_from_json(row["metrics"]),
            row["scale"],
            row["weight"],
        )


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Number of a device's refusals with one verdict, and the last reason."""

    device: str
    verdict: str
    count: int
    round_no: int
    why: str
    at: str

    @classmethod
    def read(cls, row: sqlite3.Row) -> RefusalRow:
        """From a row of `refusals`."""
        return cls(
            row["device"],
            row["verdict"],
            row["count"],
            row["round"],
            row["why"],
            row["at"],
        )
