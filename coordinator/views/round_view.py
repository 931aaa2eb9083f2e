"""A round and its tasks as people see them; a field is a key of the JSON they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from coordinator.rounds.state import RoundPhase
from coordinator.views.layers import Coverage
from coordinator.views.scores import Metric

__all__ = ["RoundHistory", "RoundView", "Scores", "TaskView"]

Scores: TypeAlias = Mapping[str, Mapping[str, float]]  # density as text -> metrics


@dataclass(frozen=True, slots=True)
class RoundView:
    """One round; 0 is the warm-up. Times are ISO 8601.

    Attributes:
        no: Its number.
        phase: Where it is.
        goal: Updates wanted.
        quorum: Updates that suffice at the deadline.
        rate: Learning rate.
        base: The checkpoint it starts from.
        model: The checkpoint it gave; None if none.
        note: Why it was aborted.
        opened: When.
        closed: When; None while it is open.
        seconds: Between both.
        asked: Devices that got a task.
        accepted: Updates accepted.
        up_bytes: Of these updates.
        down_bytes: Of the models that tasks start from.
        scores: Of its model; None before it is evaluated.
        deadline: Of the open round; None if none was noted.
        deadline_s: The longest that a task of it was given; known of one round alone.
    """

    no: int
    phase: RoundPhase = RoundPhase.PLAN
    goal: int = 0
    quorum: int = 0
    rate: float = 0.0
    base: str = ""
    model: str | None = None
    note: str = ""
    opened: str = ""
    closed: str | None = None
    seconds: float | None = None
    asked: int = 0
    accepted: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    scores: Scores | None = None
    deadline: str | None = None
    deadline_s: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether it gave a model."""
        return self.phase is RoundPhase.DONE

    @property
    def is_aborted(self) -> bool:
        """Whether it ended without one."""
        return self.phase is RoundPhase.ABORTED

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return not (self.is_done or self.is_aborted)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"round {self.no}" if self.no else "warm-up"

    def left_s(self, now: datetime) -> float | None:
        """Seconds until its deadline, 0 when it has passed; None without one."""
        if self.deadline is None:
            return None
        until = datetime.fromisoformat(self.deadline) - now
        return max(until.total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class TaskView:
    """One device's part of one round; what it has not reported is None.

    Attributes:
        round: The round.
        device: The device.
        density: Of its mask.
        phase: Where it is, as `TaskPhase` has it.
        why: Why it failed or was refused.
        late: Whether the round ended without it.
        examples: It trained on.
        steps: It did.
        seconds: They took.
        peak_mib: Most memory meanwhile, MiB.
        loss: At the end.
        up_bytes: Of its update.
        down_bytes: Of the model it starts from.
    """

    round: int
    device: str
    density: float
    phase: str = ""
    why: str = ""
    late: bool = False
    examples: int | None = None
    steps: float | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    loss: float | None = None
    up_bytes: int | None = None
    down_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """One round with its tasks, by device, and the coverage of its layers."""

    metric: Metric
    round: RoundView
    tasks: Sequence[TaskView]
    coverage: Sequence[Coverage]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found
