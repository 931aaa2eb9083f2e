"""Loss of a metric from one model to the next, paired over parts of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_sdk.evaluation.metric import Metric, MetricFailure, Sums

__all__ = ["worse_text", "worsening"]

# Quantiles .975 of Student's t by degrees of freedom; from 30 on they are near 2.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_T_MORE, _T_MANY = 2.15, 2.0


def worsening(
    metric: Metric, before: Sequence[Sums], after: Sequence[Sums]
) -> tuple[float, float] | None:
    """The loss of a metric from one model to the next, with its 95 % interval.

    The interval is the jackknife's, over parts that both models were measured on:
    devices, or batches of an evaluation set. What parts have in common, such as hard
    examples, is in both models' figures and not in the interval.

    Args:
        metric: What was measured.
        before: Sums of the model before, a part each.
        after: Of the model after, of the same parts in the same order.

    Returns:
        (loss, half the width of the interval); a gain is below 0. None of fewer than
        two parts, or where the metric has no value.

    Example:
        >>> share = Metric("share", len, lambda sums: sums[0] / sums[1])
        >>> good, bad = [np.array([9.0, 10])] * 4, [np.array([4.0, 10])] * 4
        >>> loss, half = worsening(share, good, bad)
        >>> round(loss, 3), round(half, 3)
        (0.5, 0.0)
    """
    count = len(before)
    if count < 2 or len(after) != count:
        return None
    sign = -1.0 if metric.higher_is_better else 1.0
    totals = np.sum(before, axis=0), np.sum(after, axis=0)

    def loss(left_out: int | None) -> float:
        found = []
        for parts, whole in zip((before, after), totals, strict=True):
            found.append(
                metric.value(whole if left_out is None else whole - parts[left_out])
            )
        return sign * (found[1] - found[0])

    try:
        whole = loss(None)
        others = np.array([loss(place) for place in range(count)])
    except MetricFailure:
        return None
    if not math.isfinite(whole) or not np.isfinite(others).all():
        return None
    error = math.sqrt(
        (count - 1) / count * float(((others - others.mean()) ** 2).sum())
    )
    few = _T[count - 2] if count - 1 <= len(_T) else _T_MORE
    return whole, (_T_MANY if count > 30 else few) * error


def worse_text(
    metric: Metric, before: Sequence[Sums], after: Sequence[Sums], of: str
) -> str:
    """Text about a model that is worse beyond its interval; empty if it is not.

    Args:
        metric: What was measured.
        before: Sums of the model before, a part each.
        after: Of the model after, of the same parts.
        of: What the parts are, such as ``8 devices``.
    """
    found = worsening(metric, before, after)
    if found is None or not found[0] > max(found[1], 1e-9):
        return ""
    loss, half = found
    return (
        f"{metric.name} is {loss:.4g} worse than with the model before, by more than "
        f"its interval of {half:.2g} over {of}"
    )
