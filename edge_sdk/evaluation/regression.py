"""Metrics of values: mean absolute error, its root mean square, explained variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric, Sums, mean

__all__ = ["mae", "r2", "rmse"]

Array = NDArray[np.float64]


def mae() -> Metric:
    """The mean absolute error over all outputs, in the targets' unit; lower is better.

    Example:
        >>> metric = mae()
        >>> metric.value(metric.of(np.array([[1.0], [3.0]]), np.array([1.0, 1.0])))
        1.0
    """
    return Metric("mae", _absolute, mean, higher_is_better=False, range=(0, math.inf))


def rmse() -> Metric:
    """The root of the mean squared error, in the targets' unit; lower is better."""
    return Metric("rmse", _squared, _root, higher_is_better=False, range=(0, math.inf))


def r2() -> Metric:
    """The share of the targets' variance that outputs explain; 1 is best.

    Below 0 the outputs are further off than the targets' own mean.
    """
    return Metric("r2", _moments, _explained, range=(-math.inf, 1))


def _both(outputs: Any, targets: Any) -> tuple[Array, Array]:
    said, true = np.asarray(outputs, np.float64), np.asarray(targets, np.float64)
    if said.size != true.size:
        raise ValueError(f"outputs {said.shape} do not answer targets {true.shape}")
    return said.reshape(-1), true.reshape(-1)


def _absolute(outputs: Any, targets: Any) -> list[float]:
    said, true = _both(outputs, targets)
    return [float(np.abs(said - true).sum()), float(true.size)]


def _squared(outputs: Any, targets: Any) -> list[float]:
    said, true = _both(outputs, targets)
    return [float(((said - true) ** 2).sum()), float(true.size)]


def _root(sums: Sums) -> float:
    return math.sqrt(mean(sums)) if sums[1] else math.nan


def _moments(outputs: Any, targets: Any) -> list[float]:
    said, true = _both(outputs, targets)
    off = float(((said - true) ** 2).sum())
    return [off, float(true.sum()), float((true**2).sum()), float(true.size)]


def _explained(sums: Sums) -> float:
    off, total, squares, count = map(float, sums)
    if not count:
        return math.nan
    spread = squares - total * total / count
    # Targets that are all one value have no variance to explain.
    return 1 - off / spread if spread > 1e-12 * max(squares, 1e-300) else math.nan
