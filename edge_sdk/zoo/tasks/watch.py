"""Tasks ``watch`` and ``watch-tcn``: exercises from motion, one device per subject."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.watch import EXERCISES
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["task", "tcn"]

# Of all recordings, axis by axis.
MEAN = (-0.0076, 0.3794, -0.1470, 0.0253, -0.0015, 0.0118)
STD = (0.9033, 0.4936, 0.5381, 0.9817, 2.4962, 1.0522)


def _prepare(inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """float32 (n, 6, steps) -> the same shape, about zero mean and unit deviation."""
    mean, std = (np.array(values, np.float32)[:, None] for values in (MEAN, STD))
    return (inputs.astype(np.float32) - mean) / std


task = Task(
    name="watch",
    model=by_name("edge_sdk.zoo.signals:ImuNet"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(6, 100),
    labels=EXERCISES,
    prepare=_prepare,
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=16,
)
tcn = replace(
    task,
    name="watch-tcn",
    model=by_name("edge_sdk.zoo.signals:MotionTcn"),
    dense_layers=frozenset({"conv1.weight", "fc.weight"}),
)
