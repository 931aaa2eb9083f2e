"""A round and its tasks as people see them; a field is a key of the JSON they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from coordinator.rounds.state import RoundPhase
from coordinator.views.device_scores import OnDevices
from coordinator.views.layers import Coverage, View
from coordinator.views.scores import ShownMetric

__all__ = ["RoundHistory", "RoundView", "Scores", "TaskView"]

Scores: TypeAlias = Mapping[str, Mapping[str, float]]  # density as text -> metrics


@dataclass(frozen=True, slots=True)
class RoundView:
    """One round; 0 is the warm-up. Times are ISO 8601."""

    no: int  # its number
    phase: RoundPhase = RoundPhase.PLAN  # where it is
    goal: int = 0  # updates wanted
    quorum: int = 0  # updates that suffice at the deadline
    rate: float = 0.0  # learning rate
    base: str = ""  # the checkpoint it starts from
    model: str | None = None  # the checkpoint it gave; None if none
    note: str = ""  # why it was aborted
    opened: str = ""  # when
    closed: str | None = None  # when; None while it is open
    seconds: float | None = None  # between both
    asked: int = 0  # devices that got a task
    accepted: int = 0  # updates accepted
    up_bytes: int = 0  # of these updates
    down_bytes: int = 0  # of the models that tasks start from
    scores: Scores | None = None  # of its model; None before it is evaluated
    worse: str = ""  # why its model is worse than the one before; empty if it is not
    on_devices: Mapping[str, OnDevices] | None = None  # tests by density; None: none
    deadline: str | None = None  # of the open round; None if none was noted
    # the longest that a task of it was given; known of one round alone
    deadline_s: float | None = None

    @property
    def is_done(self) -> bool:
        """True if the round gave a model."""
        return self.phase is RoundPhase.DONE

    @property
    def is_aborted(self) -> bool:
        """True if the round ended without a model."""
        return self.phase is RoundPhase.ABORTED

    @property
    def is_open(self) -> bool:
        """True if the round has not ended."""
        return not (self.is_done or self.is_aborted)

    @property
    def name(self) -> str:
        """Name of the round for people."""
        return f"round {self.no}" if self.no else "warm-up"

    def left_s(self, now: datetime) -> float | None:
        """Seconds until its deadline, 0 when it has passed; None without one."""
        if self.deadline is None:
            return None
        until = datetime.fromisoformat(self.deadline) - now
        return max(until.total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class TaskView:
    """One device's part of one round; what it has not reported is None."""

    round: int  # the round
    device: str  # the device
    density: float  # of its mask
    phase: str = ""  # where it is, as `TaskPhase` has it
    why: str = ""  # why it failed or was refused
    late: bool = False  # whether the round ended without it
    examples: int | None = None  # it trained on
    steps: float | None = None  # it did
    seconds: float | None = None  # they took
    peak_mib: float | None = None  # most memory meanwhile, MiB
    loss: float | None = None  # at the end
    up_bytes: int | None = None  # of its update
    down_bytes: int = 0  # of the model it starts from


@dataclass(frozen=True, slots=True)
class RoundHistory(View):
    """One round with its tasks, by device, and the coverage of its layers."""

    metric: ShownMetric
    round: RoundView
    tasks: Sequence[TaskView]
    coverage: Sequence[Coverage]
