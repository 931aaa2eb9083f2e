"""The task ``digits``: 8x8 handwritten digits, for trials and tests of seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["task"]


def _prepare(inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Uint8 0..16 (n, 1, 8, 8) -> float32, about zero mean and unit deviation."""
    mean, std = np.float32(4.88), np.float32(6.02)  # measured over all 1,797
    scaled: NDArray[np.float32] = (inputs.astype(np.float32) - mean) / std
    return scaled.reshape(-1, 1, 8, 8)


task = Task(
    name="digits",
    model=by_name("edge_sdk.zoo.small:DigitsNet"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 8, 8),
    labels=tuple("0123456789"),
    prepare=_prepare,
    # As with `mnist`: masking the first and the last layer would save next to nothing.
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=32,
)
