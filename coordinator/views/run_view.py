"""A run as people see it: one value behind terminal, page, report, metrics, tracking.

`coordinator.views.ledger_view` reads it; a field is a key of the JSON that people get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from coordinator.ledger.device_rows import RefusalRow
from coordinator.views.device_view import DeviceView, device_json
from coordinator.views.participation import Participation
from coordinator.views.round_view import RoundView
from coordinator.views.savings import Savings
from coordinator.views.scores import Metric
from coordinator.views.slow_devices import SlowDevice

__all__ = ["FleetView", "Observe", "RunView", "Settings", "SlowRound"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is trained, and how: the settings that displays name."""

    federation: str
    task: str
    algorithm: str
    rounds: int
    densities: Sequence[float]


@dataclass(frozen=True, slots=True)
class SlowRound:
    """Who held up the last round that ended."""

    round: int
    devices: Sequence[SlowDevice]


@dataclass(frozen=True, slots=True)
class RunView:
    """The whole run.

    Attributes:
        run: Its settings.
        began: When the first round was opened; None before.
        ended: When the last one was closed; None before.
        state: Where it stands, in words; ``done`` at the end.
        rounds_done: Rounds that gave a model, the warm-up aside.
        metric: Which of an evaluation's stands for it.
        open: The round that is open.
        rounds: All, in order.
        devices: By name.
        savings: Against dense; None before anything has moved.
        slow: Of the last round that ended.
        participation: Whose examples have trained.
        refusals: By device and verdict.
        algorithm_failures: Rounds aborted because a slot of the algorithm failed.
    """

    run: Settings
    began: str | None
    ended: str | None
    state: str
    rounds_done: int
    metric: Metric
    open: RoundView | None
    rounds: Sequence[RoundView]
    devices: Sequence[DeviceView]
    savings: Savings | None
    slow: SlowRound | None
    participation: Participation
    refusals: Sequence[RefusalRow]
    algorithm_failures: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all rounds are done."""
        return self.state == "done"

    @property
    def last_scored(self) -> RoundView | None:
        """The last round whose model was evaluated."""
        return next((r for r in reversed(self.rounds) if r.scores), None)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found | {"devices": [device_json(d) for d in self.devices]}

    def at(self, now: datetime) -> FleetView:
        """What a terminal shows of it at a moment; `now` has its zone."""
        scored, in_hand = self.last_scored, self.open or RoundView(0)
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
        )


@dataclass(frozen=True, slots=True)
class FleetView:
    """What a terminal shows at one moment: a coordinator's own, or a ledger's.

    Attributes:
        phase: What the coordinator is doing, in a few words.
        round_no: The open round; 0 is the warm-up.
        rounds: Rounds wanted.
        rounds_done: Rounds done, the warm-up aside.
        accepted: Updates of this round that are durable.
        goal: Updates this round wants.
        left_s: Seconds until the deadline, if there is one.
        devices: By name.
        scores: Latest metrics by density.
        scored_round: The round they belong to.
    """

    phase: str
    round_no: int
    rounds: int
    rounds_done: int
    accepted: int
    goal: int
    left_s: float | None
    devices: tuple[DeviceView, ...]
    scores: Mapping[float, Mapping[str, float]]
    scored_round: int


Observe: TypeAlias = Callable[[FleetView], None]
