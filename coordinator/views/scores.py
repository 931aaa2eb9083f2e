"""The metric that stands for an evaluation, and its text in every display."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["LOSS", "Metric", "metric_of", "percent", "score_text", "value_text"]

LOSS = "loss"
# What a percent sign fits: shares of something that is right.
SHARES = frozenset(
    {
        *("accuracy", "label_accuracy", "top5", "auc"),
        *("dice", "f1", "iou", "precision", "recall"),
    }
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as people see it.

    Attributes:
        name: As evaluation calls it.
        is_share: Whether it is a share in [0, 1], shown in percent.
    """

    name: str
    is_share: bool

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


def metric_of(scores: Iterable[Mapping[str, float | None]]) -> Metric:
    """The metric that stands for evaluations: accuracy, else their own, else the loss.

    A metric with a value outside [0, 1] is no share, whatever it is called, and the
    others stand before it: older versions wrote such for tasks without classes.

    Example:
        >>> metric_of([{"accuracy": 0.9, "loss": 0.3}])
        Metric(name='accuracy', is_share=True)
        >>> metric_of([{"loss": 0.3, "rmse": 2.0}]), metric_of([])
        (Metric(name='rmse', is_share=False), Metric(name='loss', is_share=False))
    """
    found: dict[str, list[float]] = {}
    for metrics in scores:
        for name, value in metrics.items():
            known = found.setdefault(name, [])
            if value is not None and math.isfinite(value):
                known.append(value)
    shares = {n for n in SHARES & set(found) if all(0 <= v <= 1 for v in found[n])}
    named = set(found) - SHARES | shares or set(
        found
    )  # what is no share is passed over
    names = sorted(named, key=lambda n: (n != "accuracy", n not in SHARES, n == LOSS))
    name = names[0] if names else LOSS
    is_share = name in shares
    return Metric(name, is_share)


def score_text(metrics: Mapping[str, float | None] | None) -> str:
    """Text of one evaluation.

    Example:
        >>> score_text({"accuracy": 0.9, "loss": 0.31}), score_text({"loss": 0.31})
        ('90.00 %', 'loss 0.31')
        >>> score_text({"loss": float("nan")}), score_text(None)
        ('loss is not finite', '-')
    """
    if not metrics:
        return "-"
    metric = metric_of([metrics])
    value = metrics[metric.name]
    if value is None or not math.isfinite(value):
        return f"{metric.name} is not finite"
    text = value_text(value, is_share=metric.is_share)
    is_plain = metric == Metric("accuracy", is_share=True)
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
