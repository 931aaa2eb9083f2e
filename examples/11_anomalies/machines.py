"""Anomalies by an autoencoder: devices know what is normal, AUROC judges the rest.

A target is the input with a mark behind it: 1 where an example is an anomaly. Devices
train on normal examples alone, and the loss does not look at the mark.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edge_sdk import Examples, Task
from edge_sdk.evaluation import auroc, average_precision

FEATURES = 24


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared error of the reconstruction."""
    return F.mse_loss(outputs, targets[:, :FEATURES])


def score(outputs, targets):  # type: ignore[no-untyped-def]
    """How unlike itself an example is rebuilt, and whether it is an anomaly."""
    return ((outputs - targets[:, :FEATURES]) ** 2).mean(axis=1), targets[:, FEATURES]


def read(folder: Path) -> Examples:
    """Rows of ``machine.csv``: the features, then the mark."""
    table = np.loadtxt(folder / "machine.csv", delimiter=",", dtype=np.float32)
    return Examples(table[:, :FEATURES], table)


task = Task(
    name="machines",
    model=lambda: nn.Sequential(
        nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 4), nn.Linear(4, FEATURES)
    ),
    loss=loss,
    metrics=[
        auroc(score=score, low=0, high=4),
        average_precision(score=score, low=0, high=4),
    ],
    train_data=read,
    eval_data=read,
    input_shape=(FEATURES,),
)
