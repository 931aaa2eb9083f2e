"""The density whose model each board deploys best, by the run's own scores.

A board with room for a model has room for every smaller one, and the smaller can be the
better: what only strong boards train has seen their data alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from coordinator.views.scores import ShownMetric, metric_of

__all__ = ["advised_densities", "deployment_text"]

Scores = Mapping[float, Mapping[str, float | None]]


def advised_densities(
    scores: Scores, metric: ShownMetric | None = None
) -> dict[float, float]:
    """Density of each board -> density of the model that it deploys best.

    That is the best model of a lower density, the smallest of equal ones, where it is
    better than that of its own. A density without a score keeps its own.

    Args:
        scores: Density -> metrics of its model, of one evaluation.
        metric: The run's primary metric; None finds one among the scores.

    Example:
        >>> found = {0.2: {"accuracy": 0.36}, 0.1: {"accuracy": 0.41}}
        >>> advised_densities(found | {0.05: {"accuracy": 0.38}})
        {0.05: 0.05, 0.1: 0.1, 0.2: 0.1}
    """
    shown = metric_of(scores.values(), metric)
    sign = 1.0 if shown.higher_is_better else -1.0
    advised, best, top = {}, -math.inf, 0.0
    for density in sorted(scores):
        value = shown.of(scores[density])
        if value is not None and sign * value > best:
            best, top = sign * value, density
        better = value is not None and best > sign * value
        advised[density] = top if better else density
    return advised


def deployment_text(scores: Scores, metric: ShownMetric | None = None) -> str:
    """Sentence on boards that a smaller model serves better; empty without one.

    Args:
        scores: Density -> metrics of its model, of one evaluation.
        metric: The run's primary metric; None finds one among the scores.
    """
    shown = metric_of(scores.values(), metric)
    advised = advised_densities(scores, metric)
    words = [
        f"the model of {other:g} ({shown.text(scores[other])}) serves boards at "
        f"{own:g} better than their own ({shown.text(scores[own])})"
        for own, other in advised.items()
        if other != own
    ]
    return "; ".join(words)
