"""One round as a pure state machine: no clock, no I/O.

Rule 1. A round closes at its goal, or at the deadline with its quorum, or not at all.
Rule 2. What is accepted before the close is in; what comes after it is late.
Rule 3. When nobody is left to wait for, the deadline is not waited for either.
Rule 4. An aborted round leaves the model as it was.

::

    PLAN -> SELECT -> RUN -> CLOSING -> DONE, which the ledger notes with the model
                       |-> ABORTED
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = [
    "OPEN",
    "QUORUM",
    "Accepted",
    "Acked",
    "Deadline",
    "DeviceEvent",
    "Effect",
    "Event",
    "Failed",
    "Freeze",
    "GiveUp",
    "Issue",
    "Offered",
    "Planned",
    "Rejected",
    "Reopened",
    "Round",
    "RoundPhase",
    "Selected",
    "TaskPhase",
    "advance",
    "quorum_of",
]

QUORUM = 0.7  # share of the goal that suffices at the deadline; one may always fail


class RoundPhase(str, Enum):
    """Phases of a round; each change is durable before its effects show."""

    PLAN = "plan"
    SELECT = "select"
    RUN = "run"
    CLOSING = "closing"
    DONE = "done"
    ABORTED = "aborted"


class TaskPhase(str, Enum):
    """Phases of one device's part of a round."""

    ASSIGNED = "assigned"
    ACKED = "acked"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"


OPEN = frozenset({TaskPhase.ASSIGNED, TaskPhase.ACKED, TaskPhase.OFFERED})


@dataclass(frozen=True, slots=True)
class Round:
    """A round's state.

    Attributes:
        no: Its number; 0 is the warm-up.
        goal: Updates wanted.
        quorum: Updates that suffice at the deadline.
        tasks: Device to where its part is.
    """

    no: int
    goal: int
    quorum: int
    phase: RoundPhase = RoundPhase.PLAN
    tasks: Mapping[str, TaskPhase] = field(default_factory=dict)

    def count(self, *phases: TaskPhase) -> int:
        """Devices whose part is in one of these phases."""
        held = list(self.tasks.values())
        return sum(map(held.count, phases))


# -- events and effects ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    """Base, masks and hyper-parameters are fixed."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The cohort is drawn and its tasks are durable."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class DeviceEvent:
    """Something happened to one device's part of a round."""

    device: str


class Acked(DeviceEvent):
    """A device has journalled its task."""


class Offered(DeviceEvent):
    """A device has its update ready."""


class Accepted(DeviceEvent):
    """A device's update is durable here."""


class Rejected(DeviceEvent):
    """A device's update did not pass the gate."""


class Failed(DeviceEvent):
    """A device cannot do its task."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The round's time is up."""


@dataclass(frozen=True, slots=True)
class Reopened:
    """A new process has taken the round up from the ledger."""


Event: TypeAlias = Planned | Selected | DeviceEvent | Deadline | Reopened


@dataclass(frozen=True, slots=True)
class Issue:
    """Send their tasks to these devices."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Freeze membership in one transaction, then aggregate."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Close the round without an aggregate."""

    why: str


Effect: TypeAlias = Issue | Freeze | GiveUp
Step: TypeAlias = tuple[Round, tuple[Effect, ...]]


def quorum_of(goal: int) -> int:
    """Updates that suffice at the deadline: 70 % of the goal, but never all of two.

    Of two or three devices one that always fails would end every round otherwise.

    Example:
        >>> [quorum_of(goal) for goal in (1, 2, 3, 4, 5, 10)]
        [1, 1, 2, 3, 4, 7]
    """
    return max(1, min(math.ceil(QUORUM * goal), goal - 1))


def advance(state: Round, event: Event) -> Step:
    """The next state and what to do; pairs outside the table change nothing."""
    rule = NEXT.get((state.phase, type(event)))
    return rule(state, event) if rule else (state, ())


# -- the rules -----------------------------------------------------------------------


def _planned(state: Round, _event: Planned) -> Step:
    return replace(state, phase=RoundPhase.SELECT), ()


def _selected(state: Round, event: Selected) -> Step:
    tasks = {**state.tasks, **dict.fromkeys(event.devices, TaskPhase.ASSIGNED)}
    return replace(state, phase=RoundPhase.RUN, tasks=tasks), (Issue(event.devices),)


def _moved(to: TaskPhase) -> Callable[[Round, Any], Step]:
    """A rule that moves an open task forward, and the round with it."""

    def rule(state: Round, event: DeviceEvent) -> Step:
        now = state.tasks.get(event.device)
        if now not in OPEN or _ORDER[to] < _ORDER[now]:
            return state, ()
        tasks = {**state.tasks, event.device: to}  # `replace` takes thrice the time
        after = Round(state.no, state.goal, state.quorum, state.phase, tasks)
        return (after, ()) if to in OPEN else _settle(after)

    return rule


def _settle(state: Round) -> Step:
    accepted = state.count(TaskPhase.ACCEPTED)
    if accepted >= state.goal:
        return replace(state, phase=RoundPhase.CLOSING), (Freeze(),)
    if not OPEN.isdisjoint(state.tasks.values()):  # the first that is open will do
        return state, ()
    return _at_the_end(state, "no device is left to wait for")


def _reopened(state: Round, _event: Reopened) -> Step:
    """Killed between the last task's end and the round's: it is over now."""
    return _settle(state)


def _deadline(state: Round, _event: Deadline) -> Step:
    return _at_the_end(state, "the deadline passed")


def _at_the_end(state: Round, cause: str) -> Step:
    accepted = state.count(TaskPhase.ACCEPTED)
    tasks = {d: TaskPhase.EXPIRED if p in OPEN else p for d, p in state.tasks.items()}
    if accepted >= state.quorum:
        return replace(state, phase=RoundPhase.CLOSING, tasks=tasks), (Freeze(),)
    why = f"{cause} with {accepted} of at least {state.quorum} updates"
    return replace(state, phase=RoundPhase.ABORTED, tasks=tasks), (GiveUp(why),)


_ORDER = {phase: i for i, phase in enumerate(TaskPhase)}

NEXT: Mapping[tuple[RoundPhase, type], Callable[[Round, Any], Step]] = MappingProxyType(
    {
        (RoundPhase.PLAN, Planned): _planned,
        (RoundPhase.SELECT, Selected): _selected,
        (RoundPhase.RUN, Acked): _moved(TaskPhase.ACKED),
        (RoundPhase.RUN, Offered): _moved(TaskPhase.OFFERED),
        (RoundPhase.RUN, Accepted): _moved(TaskPhase.ACCEPTED),
        (RoundPhase.RUN, Rejected): _moved(TaskPhase.REJECTED),
        (RoundPhase.RUN, Failed): _moved(TaskPhase.FAILED),
        (RoundPhase.RUN, Deadline): _deadline,
        (RoundPhase.RUN, Reopened): _reopened,
    }
)
