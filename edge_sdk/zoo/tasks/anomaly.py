"""The task ``fashion-anomaly``: what is normal, learned from Fashion-MNIST.

Its targets are its inputs; an image that the network rebuilds badly is not like those
that the devices have. Named by ``edge_sdk.zoo.tasks.anomaly:task``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_sdk.datasets.partition import Part, load_partition
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import normalise

__all__ = ["task"]


def _read(folder: Path, *, part: Part = "train") -> Examples:
    """Images (n, 784), float32, as inputs and as targets."""
    images = load_partition(folder, part=part).inputs
    flat = normalise(images, mean=0.2860, std=0.3530).reshape(len(images), -1)
    return Examples(flat, flat)


task = Task(
    name="fashion-anomaly",
    model=by_name("edge_sdk.zoo.autoencoder:for_images"),
    loss=by_name("torch.nn.functional:mse_loss"),
    train_data=_read,
    eval_data=partial(_read, part="eval"),
    input_shape=(28 * 28,),
    batch_size=32,
)
