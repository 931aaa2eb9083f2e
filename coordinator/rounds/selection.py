"""Selection of the next round's devices and tasks, before any of it is durable."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.evidence import LayerSensitivity, Saliency, Trained
from coordinator.rounds.cohort import Candidate, choose, choose_fairly
from coordinator.rounds.deadlines import over_selected
from coordinator.rounds.pace import RoundPace
from coordinator.rounds.tasks import warm_up_cohort
from coordinator.settings import RunSettings

__all__ = ["RoundDraft", "asks_everybody", "draft_round", "warm_up_epochs"]


@dataclass(frozen=True)
class RoundDraft:
    """A round as it is meant.

    Attributes:
        no: Its number; 0 is the warm-up.
        goal: Updates wanted.
        densities: Device -> the density it trains at; those who are asked.
        pace: How much of it fits whom; None for the warm-up.
    """

    no: int
    goal: int
    densities: Mapping[str, float]
    pace: RoundPace | None

    @property
    def cohort(self) -> tuple[str, ...]:
        """The devices asked."""
        return tuple(self.densities)

    def steps_of(self, device: str) -> int:
        """Steps that a device is cut to; 0 where it does its whole part."""
        cut = self.pace is not None and device in self.pace.why
        return self.pace.steps[device] if self.pace is not None and cut else 0


def draft_round(
    no: int,
    densities: Mapping[str, float],
    pace: RoundPace | None,
    *,
    settings: RunSettings,
    affordable: Mapping[str, float],
    masks: Collection[float],
    asked: int,
    answered: int,
    beside: Collection[str] = (),
    kept: int = 0,
    everybody: bool = False,
    turns: Mapping[str, int] = MappingProxyType({}),
    candidates: Mapping[str, Candidate] = MappingProxyType({}),
) -> RoundDraft | None:
    """The next round; None if nobody can be asked.

    Args:
        no: Its number.
        densities: Device -> what the algorithm assigned to those who are here.
        pace: How much of the round fits whom; None for the warm-up.
        settings: The run.
        affordable: Device -> the largest density that fits it.
        masks: Densities that there are masks for; the warm-up is at the largest.
        asked: Tasks issued in the last rounds.
        answered: Of them, updates accepted.
        beside: Devices that are asked, but not counted on: they have failed before.
        kept: Devices that an earlier attempt at the warm-up has evidence of.
        everybody: Whether the warm-up is for every device that is here.
        turns: Device -> the last round that it was asked in, where devices take turns.
        candidates: Device -> what a fair cohort is chosen by; empty for another one. No
            more are asked then than are wanted: a round that is over with the first
            updates would never have those of slow devices.
    """
    counted = set(densities) - set(beside)
    if pace is not None:
        densities = {d: own for d, own in densities.items() if d in pace.steps}
    trusted = {d: own for d, own in densities.items() if d in counted}
    if not densities or (counted and not trusted):
        return None
    extra = sorted(set(densities) - counted) if trusted and no else []
    densities, every = trusted or densities, densities
    wanted = settings.cohort if no else settings.warm_up.devices
    goal = min(wanted or len(densities), len(densities))
    if no == 0:
        wanted = len(densities) if everybody else wanted - kept
        goal = max(min(wanted, len(densities)), 1)
        able = {d: own for d, own in affordable.items() if d in densities}
        strongest = warm_up_cohort(settings.seed, able, goal)
        return RoundDraft(no, goal + kept, dict.fromkeys(strongest, max(masks)), pace)
    count = over_selected(goal, len(densities), asked=asked, answered=answered)
    fair = [candidates[device] for device in densities if device in candidates]
    cohort = [
        *(
            choose_fairly(settings.seed, no, fair, goal)
            if fair
            else choose(settings.seed, no, densities, count, turns)
        ),
        *choose(settings.seed, no, extra, max(goal, 1)),
    ]
    return RoundDraft(
        no, goal, {device: every[device] for device in sorted(cohort)}, pace
    )


def asks_everybody(algorithm: Algorithm) -> bool:
    """Return whether every device takes part in the warm-up, not just some.

    A mask of the most salient weights is that of the devices who were asked.
    """
    return isinstance(algorithm.evidence, Saliency) and algorithm.evidence.everybody


def warm_up_epochs(algorithm: Algorithm, settings: RunSettings) -> int:
    """Epochs that the warm-up trains: the user's, else the algorithm's own."""
    told = algorithm.evidence
    own = told.epochs if isinstance(told, LayerSensitivity | Trained) else 1
    return settings.warm_up.epochs or own
