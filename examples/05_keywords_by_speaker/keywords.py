"""Ten spoken digits as log spectrograms, and the small network of keyword spotting."""

from functools import partial

from torch.nn import functional as F

from edge_sdk import Task
from edge_sdk.datasets.partition import load_partition
from edge_sdk.zoo.signals import KeywordNet

task = Task(
    name="keywords",
    model=KeywordNet,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=partial(load_partition, part="eval"),
    input_shape=(1, 61, 40),
    labels=tuple("0123456789"),
    dense_layers=frozenset({"conv1.weight", "fc.weight"}),
)
