"""Paired differences over seeds: intervals, and p values corrected for many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

__all__ = ["BySeed", "holm", "interval", "p_above", "paired"]

BySeed = Mapping[int, float]


def paired(one: BySeed, other: BySeed) -> list[float]:
    """One minus other, at each seed of both, in their order."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def interval(points: Sequence[float]) -> tuple[float, float, float]:
    """Mean of at least two differences, and its 95 % interval (Student's t).

    Returns:
        (mean, lower, upper).

    Example:
        >>> [round(x, 2) for x in interval([1.0, 2.0])]
        [1.5, -4.85, 7.85]
    """
    mean = statistics.mean(points)
    spread = statistics.stdev(points) / len(points) ** 0.5
    half = float(stats.t.ppf(0.975, len(points) - 1)) * spread
    return mean, mean - half, mean + half


def p_above(one: BySeed, other: BySeed) -> float:
    """One-sided p value that one is above other; 1 if unknown."""
    points = paired(one, other)
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
