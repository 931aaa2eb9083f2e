"""The tasks ``spoken`` and ``spoken-gru``: spoken digits, one device per speaker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["gru", "task"]

STD = 4.78  # of log energies, over all 3,000 clips


def _prepare(inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """float32 (n, 1, frames, bands) of zero mean -> about unit deviation."""
    scaled: NDArray[np.float32] = inputs.astype(np.float32) / np.float32(STD)
    return scaled


task = Task(
    name="spoken",
    model=by_name("edge_sdk.zoo.signals:KeywordNet"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 61, 40),
    labels=tuple("0123456789"),
    prepare=_prepare,
    dense_layers=frozenset({"conv1.weight", "fc.weight"}),
    batch_size=16,
)
gru = replace(
    task,
    name="spoken-gru",
    model=by_name("edge_sdk.zoo.signals:KeywordGru"),
    dense_layers=frozenset({"fc.weight"}),
)
