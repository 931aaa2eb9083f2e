"""A run as people see it: one value behind terminal, page, report, metrics, tracking.

`coordinator.views.ledger_view` reads it; a field is a key of the JSON that people get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from coordinator.ledger.device_rows import RefusalRow
from coordinator.views.device_scores import OnDevices
from coordinator.views.device_view import DeviceView, device_json
from coordinator.views.layers import View
from coordinator.views.participation import Participation
from coordinator.views.round_view import RoundView
from coordinator.views.savings import Savings
from coordinator.views.scores import ShownMetric
from coordinator.views.slow_devices import SlowDevice

__all__ = ["FleetView", "Observe", "RunView", "Settings", "SlowRound", "SpentPrivacy"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that displays name: what is trained, and how."""

    federation: str
    task: str
    algorithm: str
    rounds: int
    densities: Sequence[float]


@dataclass(frozen=True, slots=True)
class SpentPrivacy:
    """Privacy that a run's rounds have spent, for a device that was in all of them."""

    noise: str  # who draws it: ``central`` the coordinator, ``distributed`` each device
    epsilon: float | None  # of all rounds up to now; None if some had no noise
    delta: float  # chance that the bound does not hold
    budget: float | None  # most that epsilon may come to; None for no bound

    @property
    def remark(self) -> str:
        """The rest of it, in words."""
        most = "" if self.budget is None else f", of {self.budget:g}"
        return f"{self.noise} noise, delta {self.delta:g}{most}"


@dataclass(frozen=True, slots=True)
class SlowRound:
    """Slow devices of the last round that ended."""

    round: int
    devices: Sequence[SlowDevice]


@dataclass(frozen=True, slots=True)
class RunView(View):
    """The whole run."""

    run: Settings  # its settings
    began: str | None  # when the first round was opened; None before
    ended: str | None  # when the last one was closed; None before
    state: str  # where it stands, in words; ``done`` at the end
    rounds_done: int  # rounds that gave a model, the warm-up aside
    metric: ShownMetric  # which of an evaluation's stands for it
    open: RoundView | None  # the round that is open
    rounds: Sequence[RoundView]  # all, in order
    devices: Sequence[DeviceView]  # by name
    savings: Savings | None  # against dense; None before anything has moved
    slow: SlowRound | None  # of the last round that ended
    participation: Participation  # whose examples have trained
    refusals: Sequence[RefusalRow]  # by device and verdict
    algorithm_failures: int = 0  # rounds aborted because a slot of the algorithm failed
    privacy: SpentPrivacy | None = None  # of a run with noise, once a round is done

    @property
    def is_done(self) -> bool:
        """True if all rounds are done."""
        return self.state == "done"

    @property
    def last_scored(self) -> RoundView | None:
        """The last round whose model was evaluated."""
        return next((r for r in reversed(self.rounds) if r.scores), None)

    def is_scored(self, row: RoundView) -> bool:
        """Return whether a round's model is scored at every density."""
        return len(row.scores or {}) >= len(self.run.densities)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return View.as_json(self) | {"devices": [device_json(d) for d in self.devices]}

    def at(self, now: datetime) -> FleetView:
        """State of the fleet at a moment, for a terminal; `now` has its zone."""
        scored, in_hand = self.last_scored, self.open or RoundView(0)
        tested = next((r for r in reversed(self.rounds) if r.on_devices), None)
        scores = scored.scores if scored and scored.scores else {}
        return FleetView(
            phase=self.state.partition(":")[0],
            round_no=in_hand.no,
            rounds=self.run.rounds,
            rounds_done=self.rounds_done,
            accepted=in_hand.accepted,
            goal=in_hand.goal,
            left_s=in_hand.left_s(now),
            devices=tuple(device.at(now) for device in self.devices),
            scores={float(density): found for density, found in scores.items()},
            scored_round=scored.no if scored else 0,
            metric=self.metric,
            tests=tested.on_devices or {} if tested else {},
            tested_round=tested.no if tested else 0,
        )


@dataclass(frozen=True, slots=True)
class FleetView:
    """State of a fleet at one moment, by its coordinator or from a ledger."""

    phase: str  # what the coordinator is doing, in a few words
    round_no: int  # the open round; 0 is the warm-up
    rounds: int  # rounds wanted
    rounds_done: int  # rounds done, the warm-up aside
    accepted: int  # updates of this round that are durable
    goal: int  # updates this round wants
    left_s: float | None  # seconds until the deadline, if there is one
    devices: tuple[DeviceView, ...]  # by name
    scores: Mapping[float, Mapping[str, float]]  # latest metrics by density
    scored_round: int  # the round they belong to
    metric: ShownMetric | None = None  # which of them stands for the others
    tests: Mapping[str, OnDevices] = field(default_factory=dict)  # latest by density
    tested_round: int = 0  # the round they belong to


Observe: TypeAlias = Callable[[FleetView], None]
