"""Decides what a model is measured by, and on which of a device's examples."""

from edge_sdk.evaluation.classification import (
    accuracy,
    confusion_matrix,
    macro_f1,
    top_k,
)
from edge_sdk.evaluation.metric import Metric, loss
from edge_sdk.evaluation.overlap import dice, iou
from edge_sdk.evaluation.ranking import auroc, average_precision
from edge_sdk.evaluation.regression import mae, r2, rmse

__all__ = [
    "Metric",
    "accuracy",
    "auroc",
    "average_precision",
    "confusion_matrix",
    "dice",
    "iou",
    "loss",
    "macro_f1",
    "mae",
    "r2",
    "rmse",
    "top_k",
]
