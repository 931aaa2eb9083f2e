"""Choice of a round's cohort: a pure function of seed, round and present devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

__all__ = ["choose", "generator"]


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
