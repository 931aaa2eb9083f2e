"""The task ``femnist``: handwritten characters by writer (LEAF, arXiv:1812.01097)."""

from __future__ import annotations

import string
from functools import partial

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import eval_data, normalise

__all__ = ["task"]

task = Task(
    name="femnist",
    model=by_name("edge_sdk.zoo.small:FemnistCnn"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(1, 28, 28),
    labels=tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    prepare=partial(normalise, mean=0.0, std=1.0),
    # FLASH's 14.6 times fewer bytes come out only with the first and last layer dense.
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
    batch_size=32,
)
