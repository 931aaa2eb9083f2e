"""Paired differences over seeds: intervals, and p values corrected for many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

__all__ = ["difference", "holm", "p_above"]

BySeed = Mapping[int, float]


def _pairs(one: BySeed, other: BySeed) -> list[float]:
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def difference(one: BySeed, other: BySeed) -> tuple[float, float, float] | None:
    """Mean of one minus other, and its 95 % interval (Student's t, paired by seed).

    Returns:
        (mean, lower, upper); None with fewer than two seeds of both.

    Example:
        >>> found = difference({1: 3.0, 2: 5.0}, {1: 2.0, 2: 3.0})
        >>> [round(x, 2) for x in found]
        [1.5, -4.85, 7.85]
    """
    points = _pairs(one, other)
    if len(points) < 2:
        return None
    mean = statistics.mean(points)
    spread = statistics.stdev(points) / len(points) ** 0.5
    half = float(stats.t.ppf(0.975, len(points) - 1)) * spread
    return mean, mean - half, mean + half


def p_above(one: BySeed, other: BySeed, by: float = 0.0) -> float:
    """One-sided p value that one is above other by more than `by`; 1 if unknown."""
    points = [point - by for point in _pairs(one, other)]
    if len(points) < 2 or len(set(points)) < 2:
        return 1.0
    return float(stats.ttest_1samp(points, 0.0, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p values, in the order given (Holm 1979).

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = least
    return corrected
