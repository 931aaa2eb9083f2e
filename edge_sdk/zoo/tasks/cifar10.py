"""The task ``cifar10``: small colour photographs, with ResNets of several sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.zoo import (
    ResNet18Cifar,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
)
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = [
    "resnet18_group",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "task",
]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # as FLASH has them
PAD = 4
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _prepare(inputs: torch.Tensor) -> torch.Tensor:
    """Uint8 (n, 3, 32, 32) -> float32 of that shape, normalised by channel."""
    scaled = inputs.reshape(-1, 3, 32, 32).to(torch.float32) / 255.0
    return (scaled - _planes(MEAN)) / _planes(STD)


def _augment(inputs: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """A random crop of the image with 4 black pixels around it; half are mirrored.

    Args:
        inputs: Prepared.
        noise: The only source of randomness.
    """
    count, size = len(inputs), inputs.shape[-1]
    black = -_planes(MEAN) / _planes(STD)
    padded = F.pad(inputs - black, (PAD,) * 4) + black
    corner = torch.randint(0, 2 * PAD + 1, (count, 2), generator=noise)
    rows, columns = (corner[:, i, None] + torch.arange(size) for i in (0, 1))
    each = torch.arange(count)[:, None, None]
    # (count, size, size, channels): the indexed axes come first.
    cropped = padded[each, :, rows[:, :, None], columns[:, None, :]]
    mirrored = torch.rand(count, generator=noise) < 0.5
    crops = cropped.permute(0, 3, 1, 2)
    return torch.where(mirrored[:, None, None, None], crops.flip(3), crops)


def _planes(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


task = Task(
    name="cifar10",
    model=ResNet18Cifar,
    loss=F.cross_entropy,
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(3, 32, 32),
    labels=LABELS,
    prepare=_prepare,
    augment=_augment,
    # FLASH masks the 20 convolutions and keeps the last layer dense.
    dense_layers=frozenset({"fc.weight"}),
    batch_size=32,
)
resnet18_group = replace(
    task, name="cifar10-group", model=partial(ResNet18Cifar, norm="group")
)
resnet20 = replace(task, name="cifar10-resnet20", model=ResNet20)
resnet32 = replace(task, name="cifar10-resnet32", model=ResNet32)
resnet44 = replace(task, name="cifar10-resnet44", model=ResNet44)
resnet56 = replace(task, name="cifar10-resnet56", model=ResNet56)
resnet110 = replace(task, name="cifar10-resnet110", model=ResNet110)
