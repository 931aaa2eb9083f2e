"""The task ``fashion``: Fashion-MNIST (arXiv:1708.07747), the network of ``mnist``."""

from __future__ import annotations

from functools import partial

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data, normalise

__all__ = ["task"]

task = Task(
    name="fashion",
    model=by_name("edge_sdk.zoo.small:MnistNet"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 28, 28),
    labels=(
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    prepare=partial(normalise, mean=0.2860, std=0.3530),  # measured on the 60,000
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=32,
)
