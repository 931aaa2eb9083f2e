"""The task ``mnist``: handwritten digits as in FLASH (arXiv:2208.13092)."""

from __future__ import annotations

from functools import partial

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data, normalise

__all__ = ["task"]

task = Task(
    name="mnist",
    model=by_name("edge_sdk.zoo.small:MnistNet"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 28, 28),
    labels=tuple("0123456789"),
    prepare=partial(normalise, mean=0.1307, std=0.3081),
    # FLASH keeps the first and the last layer dense here: 750 of 261,750 weights.
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=32,
)
