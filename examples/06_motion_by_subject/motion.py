"""Windows of a watch's six axes, and a one-dimensional network for them."""

from functools import partial

from torch.nn import functional as F

from edge_sdk import Task
from edge_sdk.datasets.partition import load_partition
from edge_sdk.zoo.signals import ImuNet

task = Task(
    name="motion",
    model=ImuNet,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=partial(load_partition, part="eval"),
    input_shape=(6, 128),
    labels=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"),
    dense_layers=frozenset({"conv1.weight", "fc2.weight"}),
)
