"""The metric that stands for an evaluation, and its text in every display."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_sdk.evaluation.metric import Metric

__all__ = [
    "LOSS",
    "SHARES",
    "ShownMetric",
    "metric_of",
    "percent",
    "score_text",
    "shown",
    "told_metric",
    "value_text",
]

LOSS = "loss"
# What a percent sign fits: shares of something that is right.
SHARES = frozenset(
    {
        *("accuracy", "label_accuracy", "top5", "auc", "auroc", "macro_f1"),
        *("dice", "f1", "iou", "precision", "recall", "average_precision"),
    }
)
ERRORS = frozenset({LOSS, "mae", "rmse"})  # less of them is better


@dataclass(frozen=True, slots=True)
class ShownMetric:
    """A metric as people see it.

    Attributes:
        name: As evaluation calls it.
        is_share: Whether it is a share in [0, 1], shown in percent.
        higher_is_better: Which way a model improves.
    """

    name: str
    is_share: bool
    higher_is_better: bool = True

    @property
    def words(self) -> str:
        """The metric's name as people read it."""
        return self.name.replace("_", " ")

    def of(self, metrics: Mapping[str, float | None] | None) -> float | None:
        """Value of the metric in an evaluation, or None if it cannot be shown."""
        value = (metrics or {}).get(self.name)
        return value if value is not None and math.isfinite(value) else None

    def text(self, metrics: Mapping[str, float | None] | None) -> str:
        """Value of the metric in words; a dash without one."""
        value = self.of(metrics)
        return "-" if value is None else value_text(value, is_share=self.is_share)


def shown(metric: Metric) -> ShownMetric:
    """A task's metric as people see it."""
    return ShownMetric(metric.name, metric.is_share, metric.higher_is_better)


def told_metric(kept: Mapping[str, Any] | None) -> ShownMetric | None:
    """The primary metric as a ledger keeps it; None of a run of 0.1.0."""
    if kept is None:
        return None
    return ShownMetric(kept["name"], kept["is_share"], kept["higher_is_better"])


def metric_of(
    scores: Iterable[Mapping[str, float | None]], told: ShownMetric | None = None
) -> ShownMetric:
    """The metric that stands for evaluations.

    That is the task's primary metric where the run has noted it; of older runs it is
    accuracy, else their own, else the loss. A metric with a value outside [0, 1] is no
    share, whatever it is called, and the others stand before it: older versions wrote
    such for tasks without classes.

    Example:
        >>> metric_of([{"accuracy": 0.9, "loss": 0.3}])
        ShownMetric(name='accuracy', is_share=True, higher_is_better=True)
        >>> metric_of([{"loss": 0.3, "rmse": 2.0}]).name, metric_of([]).name
        ('rmse', 'loss')
    """
    found: dict[str, list[float]] = {}
    for metrics in scores:
        for name, value in metrics.items():
            known = found.setdefault(name, [])
            if value is not None and math.isfinite(value):
                known.append(value)
    if told is not None and (told.name in found or not found):
        share = all(0 <= v <= 1 for v in found.get(told.name, ()))
        return replace(told, is_share=told.is_share and share)
    shares = {n for n in SHARES & set(found) if all(0 <= v <= 1 for v in found[n])}
    named = set(found) - SHARES | shares or set(
        found
    )  # what is no share is passed over
    names = sorted(named, key=lambda n: (n != "accuracy", n not in SHARES, n == LOSS))
    name = names[0] if names else LOSS
    is_share = name in shares
    return ShownMetric(name, is_share, name not in ERRORS)


def score_text(
    metrics: Mapping[str, float | None] | None, told: ShownMetric | None = None
) -> str:
    """Text of one evaluation; `told` is the run's primary metric.

    Example:
        >>> score_text({"accuracy": 0.9, "loss": 0.31}), score_text({"loss": 0.31})
        ('90.00 %', 'loss 0.31')
        >>> score_text({"loss": float("nan")}), score_text(None)
        ('loss is not finite', '-')
    """
    if not metrics:
        return "-"
    metric = metric_of([metrics], told)
    value = metrics[metric.name]
    if value is None or not math.isfinite(value):
        return f"{metric.name} is not finite"
    text = value_text(value, is_share=metric.is_share)
    is_plain = metric.name == "accuracy" and metric.is_share
    return text if is_plain else f"{metric.words} {text}"


def value_text(value: float | None, *, is_share: bool) -> str:
    """A metric's value: a share in percent, another with four digits.

    Example:
        >>> value_text(0.9773, is_share=True), value_text(23.14021, is_share=False)
        ('97.73 %', '23.14')
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    return percent(value) if is_share else f"{value:.4g}"


def percent(share: float) -> str:
    """A share in [0, 1] in words.

    Example:
        >>> percent(0.9773)
        '97.73 %'
    """
    return f"{100 * share:.2f} %"
