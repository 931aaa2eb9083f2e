"""Choice of a round's cohort: a pure function of seed, round and present devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

__all__ = ["Candidate", "choose", "choose_fairly", "generator"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a round may ask, and what decides whether it does.

    Attributes:
        name: The device.
        counted: The last round whose model has its update; 0 for none.
        left_s: Seconds until its owner's hours end.
        battery: Charge of the battery that it runs on, percent; None on mains.
    """

    name: str
    counted: int = 0
    left_s: float = math.inf
    battery: int | None = None


def generator(seed: int, round_no: int, purpose: int) -> np.random.Generator:
    """The randomness of one purpose in one round; round 57 replays without 1 to 56."""
    return np.random.Generator(np.random.Philox(key=[seed, (round_no << 8) | purpose]))


def choose(
    seed: int,
    round_no: int,
    present: Iterable[str],
    count: int,
    asked: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, ...]:
    """`count` of the devices present, without replacement; order does not matter.

    Args:
        seed: The run's.
        round_no: The round.
        present: Who may be drawn.
        count: How many.
        asked: Device -> the last round that it was asked in: who has waited longest
            comes first, who was never asked before all; chance decides between equals.
            Empty for chance alone.

    Example:
        >>> choose(1, 3, ["b", "c", "a"], 2) == choose(1, 3, ["a", "b", "c"], 2)
        True
    """
    names = sorted(set(present))
    drawn = generator(seed, round_no, 1).permutation(len(names))
    turns = np.array([asked.get(names[i], 0) for i in drawn])
    drawn = drawn[np.argsort(turns, kind="stable")][:count]
    return tuple(names[i] for i in sorted(drawn))


def choose_fairly(
    seed: int, round_no: int, candidates: Iterable[Candidate], count: int
) -> tuple[str, ...]:
    """`count` of the candidates: those whose data the models have missed for longest.

    Not who was asked last decides but whose update counted: one that is slow, and was
    late or not waited for, stays at the head of the queue. Of those that have missed as
    much, who will be gone sooner comes first, then who has more battery, then chance.

    Example:
        >>> slow, usual = Candidate("slow", counted=2), Candidate("usual", counted=5)
        >>> soon = Candidate("soon", counted=5, left_s=600.0)
        >>> choose_fairly(1, 6, [usual, slow, soon], 2)
        ('slow', 'soon')
    """
    known = sorted(candidates, key=lambda one: one.name)
    mixed = [known[i] for i in generator(seed, round_no, 1).permutation(len(known))]
    mixed.sort(
        key=lambda one: (
            one.counted,
            one.left_s,
            -(100 if one.battery is None else one.battery),
        )
    )
    return tuple(sorted(one.name for one in mixed[:count]))
