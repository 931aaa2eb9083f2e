"""Metrics of segmentations: how far the places said and true of a class overlap."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.classification import classes_of
from edge_sdk.evaluation.metric import Metric, Sums

__all__ = ["dice", "iou"]


def iou(*, threshold: float = 0.0) -> Metric:
    """Intersection over union, the mean over the classes that occur; in [0, 1].

    Of outputs that say one yes each, (N, 1, ...), only the yes counts.

    Args:
        threshold: Above it a lone output says yes: 0 for logits, 0.5 for
            probabilities.

    Example:
        >>> metric = iou()
        >>> said, true = np.array([[[1.0, 1.0, -1.0]]]), np.array([[[1, 0, 0]]])
        >>> metric.value(metric.of(said, true))
        0.5
    """
    return Metric("iou", partial(_places, threshold), _mean_iou, range=(0, 1))


def dice(*, threshold: float = 0.0) -> Metric:
    """Twice the intersection over both sizes, the mean over classes; in [0, 1].

    Args:
        threshold: As in `iou`.
    """
    return Metric("dice", partial(_places, threshold), _mean_dice, range=(0, 1))


def _places(threshold: float, outputs: Any, targets: Any) -> NDArray[Any]:
    """(3 * classes,): places of each class said and true, said, true."""
    said, true, count = classes_of(outputs, targets, threshold)
    found = [
        np.bincount(one, minlength=count) for one in (true[said == true], said, true)
    ]
    shape = np.shape(outputs)
    lone = len(shape) < 2 or shape[1] == 1
    return np.concatenate([part[1:] if lone else part for part in found])


def _mean_iou(sums: Sums) -> float:
    both, said, true = sums.reshape(3, -1)
    union = said + true - both
    return (
        float((both[union > 0] / union[union > 0]).mean()) if union.any() else math.nan
    )


def _mean_dice(sums: Sums) -> float:
    both, said, true = sums.reshape(3, -1)
    size = said + true
    return (
        float((2 * both[size > 0] / size[size > 0]).mean()) if size.any() else math.nan
    )
