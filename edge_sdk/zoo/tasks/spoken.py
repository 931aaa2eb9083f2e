"""The task ``spoken``: spoken digits as spectrograms, one device per speaker."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.zoo import KeywordNet
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = ["task"]

STD = 4.78  # of log energies, over all 3,000 clips


def _prepare(inputs: torch.Tensor) -> torch.Tensor:
    """float32 (n, 1, frames, bands) of zero mean -> about unit deviation."""
    return inputs.to(torch.float32) / STD


task = Task(
    name="spoken",
    model=KeywordNet,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 61, 40),
    labels=tuple("0123456789"),
    prepare=_prepare,
    dense_layers=frozenset({"conv1.weight", "fc.weight"}),
    batch_size=16,
)
