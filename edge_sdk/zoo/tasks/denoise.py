"""The task ``fashion-denoise``: images without their noise, learned by a U-Net.

Its inputs are Fashion-MNIST's images with noise over them, its targets the images
themselves. Named by ``edge_sdk.zoo.tasks.denoise:task``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from edge_sdk.datasets.partition import Part, load_partition
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.halves import by_name
from edge_sdk.zoo.tasks.gray import normalise

__all__ = ["NOISE", "task"]

NOISE = 0.5  # standard deviation; the images' own is 1
_SEED = 0xD01  # each reading draws the same noise


def _read(folder: Path, *, part: Part = "train") -> Examples:
    """Images (n, 1, 28, 28), float32: noisy as inputs, clean as targets."""
    clean = normalise(load_partition(folder, part=part).inputs, mean=0.2860, std=0.3530)
    noise = np.random.default_rng(_SEED).standard_normal(clean.shape, np.float32)
    return Examples(clean + np.float32(NOISE) * noise, clean)


task = Task(
    name="fashion-denoise",
    model=by_name("edge_sdk.zoo.unet:SmallUNet"),
    loss=by_name("torch.nn.functional:mse_loss"),
    train_data=_read,
    eval_data=partial(_read, part="eval"),
    input_shape=(1, 28, 28),
    dense_layers=frozenset({"down1.conv1.weight", "head.weight"}),
    batch_size=16,
)
