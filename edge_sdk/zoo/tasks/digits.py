"""The task ``digits``: 8x8 handwritten digits, for trials and tests of seconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.zoo.small import DigitsNet
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["task"]


def _prepare(inputs: torch.Tensor) -> torch.Tensor:
    """Uint8 0..16 (n, 1, 8, 8) -> float32, about zero mean and unit deviation."""
    scaled = (inputs.to(torch.float32) - 4.88) / 6.02  # measured over all 1,797
    return scaled.reshape(-1, 1, 8, 8)


task = Task(
    name="digits",
    model=DigitsNet,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 8, 8),
    labels=tuple("0123456789"),
    prepare=_prepare,
    # As with `mnist`: masking the first and the last layer would save next to nothing.
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=32,
)
