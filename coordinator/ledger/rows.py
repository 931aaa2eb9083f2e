"""Rounds, tasks and updates as the ledger records them: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordinator.ledger.database import damaged
from coordinator.rounds.state import RoundPhase, TaskPhase
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder

__all__ = ["RoundRow", "TaskRow", "UpdateRow", "read_order"]


def read_order(packed: bytes, task: str, folder: Path) -> TaskOrder:
    """Unpack an order of the ledger.

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


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """One accepted update; its bytes are where `Ledger.place_of` says.

    Attributes:
        task: The task it answers.
        device: Whose it is.
        density: Density of the mask it stands on.
        blob: Name of its payload: the SHA-256 in hex.
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
