"""Choice of a round's cohort: a pure function of seed, round and present devices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["choose", "generator"]


def generator(seed: int, round_no: int, purpose: int) -> np.random.Generator:
    """The randomness of one purpose in one round; round 57 replays without 1 to 56."""
    return np.random.Generator(np.random.Philox(key=[seed, (round_no << 8) | purpose]))


def choose(
    seed: int, round_no: int, present: Iterable[str], count: int
) -> tuple[str, ...]:
    """`count` of the devices present, without replacement; order does not matter.

    Example:
        >>> choose(1, 3, ["b", "c", "a"], 2) == choose(1, 3, ["a", "b", "c"], 2)
        True
    """
    names = sorted(set(present))
    drawn = generator(seed, round_no, 1).permutation(len(names))[:count]
    return tuple(names[i] for i in sorted(drawn))
