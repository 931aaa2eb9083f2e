"""The task ``watch``: exercises from a smart watch's motion, one device per subject."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.watch import EXERCISES
from edge_sdk.tasks.task import Task
from edge_sdk.zoo import ImuNet
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["task"]

# Of all recordings, axis by axis.
MEAN = (-0.0076, 0.3794, -0.1470, 0.0253, -0.0015, 0.0118)
STD = (0.9033, 0.4936, 0.5381, 0.9817, 2.4962, 1.0522)


def _prepare(inputs: torch.Tensor) -> torch.Tensor:
    """float32 (n, 6, steps) -> the same shape, about zero mean and unit deviation."""
    mean, std = (torch.tensor(values)[:, None] for values in (MEAN, STD))
    return (inputs.to(torch.float32) - mean) / std


task = Task(
    name="watch",
    model=ImuNet,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(6, 100),
    labels=EXERCISES,
    prepare=_prepare,
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=16,
)
