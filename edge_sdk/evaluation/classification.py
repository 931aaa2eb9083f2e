"""Metrics of answers: accuracy, top-k, and macro F1 with its confusion matrix."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric, Sums, mean

__all__ = ["accuracy", "classes_of", "confusion_matrix", "macro_f1", "top_k"]

Array = NDArray[Any]


def classes_of(
    outputs: Any, targets: Any, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Classes said and true, flat and of the places that count, and their number.

    Args:
        outputs: (N, C, ...) scores of C > 1 classes, or (N,), (N, 1, ...) of one yes.
        targets: (N, ...) whole classes, those below 0 or from C on do not count; of the
            form of the outputs one 1 in C; or 0 and 1 of one yes.
        threshold: Above it a lone output says yes.
    """
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.ndim > 1 and outputs.shape[1] > 1:
        count, said = outputs.shape[1], outputs.argmax(1)
        true = targets.argmax(1) if targets.shape == outputs.shape else targets
    else:
        count, said, true = 2, outputs > threshold, targets > 0.5
    if said.size != true.size:
        raise ValueError(
            f"outputs {outputs.shape} do not answer targets {targets.shape}"
        )
    said, true = said.reshape(-1).astype(np.int64), true.reshape(-1).astype(np.int64)
    counts = (true >= 0) & (true < count)
    return said[counts], true[counts], count


def accuracy(*, threshold: float = 0.0) -> Metric:
    """The share of answers that are right, in [0, 1]; each pixel or step counts.

    Args:
        threshold: Above it a lone output says yes: 0 for logits, 0.5 for
            probabilities.

    Example:
        >>> metric = accuracy()
        >>> metric.value(metric.of(np.eye(3), np.array([0, 1, 1])))
        0.6666666666666666
    """
    return Metric("accuracy", partial(_right, threshold), mean, range=(0, 1))


def _right(threshold: float, outputs: Array, targets: Array) -> list[float]:
    said, true, _ = classes_of(outputs, targets, threshold)
    return [float((said == true).sum()), float(len(true))]


def top_k(k: int = 5) -> Metric:
    """The share of examples whose class is among the k largest outputs, ``top{k}``.

    Example:
        >>> metric = top_k(2)
        >>> metric.name, metric.value(metric.of(np.eye(3), np.array([0, 0, 2])))
        ('top2', 1.0)
    """
    return Metric(f"top{k}", partial(_among, k), mean, range=(0, 1))


def _among(k: int, outputs: Array, targets: Array) -> list[float]:
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    classes = outputs.shape[1]
    own = np.clip(targets, 0, classes - 1).astype(np.int64)[:, None]
    mine = np.take_along_axis(outputs, own, axis=1)
    index = np.arange(classes).reshape(1, -1, *[1] * (outputs.ndim - 2))
    # Ties go to the lower class, as with argmax.
    before = (outputs > mine) | ((outputs == mine) & (index < own))
    counts = (targets >= 0) & (targets < classes)
    return [float(((before.sum(1) < k) & counts).sum()), float(counts.sum())]


def macro_f1(*, threshold: float = 0.0) -> Metric:
    """The mean F1 over the classes that occur, in answers or targets; in [0, 1].

    Its sums are the confusion matrix, see `confusion_matrix`.

    Args:
        threshold: As in `accuracy`.
    """
    return Metric("macro_f1", partial(_confusion, threshold), _mean_f1, range=(0, 1))


def _confusion(threshold: float, outputs: Array, targets: Array) -> Array:
    said, true, count = classes_of(outputs, targets, threshold)
    return np.bincount(true * count + said, minlength=count * count)


def confusion_matrix(sums: Sums) -> NDArray[np.float64]:
    """Counts of each class (row) taken for each (column), from sums of `macro_f1`.

    Example:
        >>> metric = macro_f1()
        >>> confusion_matrix(metric.of(np.eye(2), np.array([0, 0]))).tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    count = math.isqrt(len(sums))
    return np.asarray(sums, np.float64).reshape(count, count)


def _mean_f1(sums: Sums) -> float:
    table = confusion_matrix(sums)
    hits, said, true = table.diagonal(), table.sum(0), table.sum(1)
    occurs = said + true > 0
    if not occurs.any():
        return math.nan
    return float((2 * hits[occurs] / (said + true)[occurs]).mean())
