"""Metrics of a ranking: AUROC and average precision, from a fixed histogram of scores.

The exact figures need every score; a histogram of fixed bins is a sum, and so adds up
over devices. Two scores of one bin count as a tie. Scores beyond the range fall into
its outermost bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric, Sums

__all__ = ["Score", "auroc", "average_precision", "yes_score"]

Array = NDArray[Any]
# (outputs, targets) -> (scores, whether each is a yes), both (n,)
Score: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]
BINS = 512


def yes_score(outputs: Any, targets: Any) -> tuple[Array, Array]:
    """The score of a yes: a lone output, or the second of two less the first; flat."""
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.ndim > 1 and outputs.shape[1] == 2 and targets.shape != outputs.shape:
        outputs = outputs[:, 1] - outputs[:, 0]
    return outputs.reshape(-1), targets.reshape(-1) > 0.5


def auroc(
    *,
    score: Score = yes_score,
    low: float = -10.0,
    high: float = 10.0,
    bins: int = BINS,
    name: str = "auroc",
) -> Metric:
    """The area under the ROC curve: how often a yes scores above a no; in [0, 1].

    Args:
        score: (outputs, targets) -> scores (n,) and whether each is a yes (n,); the
            default takes a logit, or two outputs of which the second says yes. For
            anomalies give the error of reconstruction.
        low: Where the histogram begins; 0 for probabilities and errors.
        high: Where it ends; 1 for probabilities.
        bins: Of one width each; twice as many sums.
        name: In tables and displays.

    Example:
        >>> metric = auroc()
        >>> outputs, targets = np.array([-2.0, 1, 3]), np.array([0, 1, 1])
        >>> metric.value(metric.of(outputs, targets))
        1.0
    """
    sums = partial(_histograms, score, low, high, bins)
    return Metric(name, sums, _area, range=(0, 1))


def average_precision(
    *,
    score: Score = yes_score,
    low: float = -10.0,
    high: float = 10.0,
    bins: int = BINS,
    name: str = "average_precision",
) -> Metric:
    """The mean precision over all yes, each at its own threshold; in [0, 1].

    Args:
        score: As in `auroc`; likewise the others.
        low: Where the histogram begins.
        high: Where it ends.
        bins: Of one width each.
        name: In tables and displays.
    """
    sums = partial(_histograms, score, low, high, bins)
    return Metric(name, sums, _precision, range=(0, 1))


def _histograms(
    score: Score, low: float, high: float, bins: int, outputs: Any, targets: Any
) -> Array:
    """(2 * bins,): counts of the no, then of the yes, by ascending score."""
    scores, yes = (np.asarray(a).reshape(-1) for a in score(outputs, targets))
    if scores.shape != yes.shape:
        raise ValueError(f"{scores.size} scores for {yes.size} targets")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    place = (np.clip(scores.astype(np.float64), low, high) - low) / (high - low)
    index = np.minimum((place * bins).astype(np.int64), bins - 1)
    return np.bincount(index + bins * yes.astype(np.bool_), minlength=2 * bins)


def _area(sums: Sums) -> float:
    no, yes = sums.reshape(2, -1)
    if not no.sum() or not yes.sum():
        return math.nan  # one class alone has no order
    below = np.cumsum(no) - no
    return float((yes * (below + no / 2)).sum() / (no.sum() * yes.sum()))


def _precision(sums: Sums) -> float:
    no, yes = sums.reshape(2, -1)[:, ::-1]
    if not yes.sum():
        return math.nan
    said = np.cumsum(no + yes)
    found = np.divide(np.cumsum(yes), said, out=np.zeros_like(said), where=said > 0)
    return float((yes * found).sum() / yes.sum())
