"""The task ``cifar10``: small colour photographs, with ResNets of several sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import ArrayFunction, by_name
from edge_sdk.zoo.tasks.gray import eval_data

__all__ = [
    "mobilenetv2",
    "resnet18_group",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "task",
    "vit",
]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # as FLASH has them
PAD = 4
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def _prepare(inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Uint8 (n, 3, 32, 32) -> float32 of that shape, normalised by channel."""
    share = inputs.reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255.0)
    scaled: NDArray[np.float32] = (share - _planes(MEAN)) / _planes(STD)
    return scaled


class Crops(ArrayFunction):
    """A random crop of the image with 4 black pixels around it; half are mirrored.

    Drawn from torch's generator where torch trains, so that a run's draws are those
    that it had before this was written in numpy.
    """

    def __call__(self, inputs: Any, noise: Any = None) -> Any:
        """Arrays with a numpy generator give arrays, tensors with torch's tensors."""
        count = len(inputs)
        if isinstance(inputs, np.ndarray):
            corner = noise.integers(0, 2 * PAD + 1, (count, 2))
            return _cropped(inputs, corner, noise.random(count, np.float32) < 0.5)
        import torch  # noqa: PLC0415 - whoever has a tensor has torch

        corner = torch.randint(0, 2 * PAD + 1, (count, 2), generator=noise).numpy()
        mirrored = torch.rand(count, generator=noise).numpy() < 0.5
        return torch.from_numpy(_cropped(inputs.numpy(), corner, mirrored))


def _cropped(
    inputs: NDArray[np.float32], corner: NDArray[np.int64], mirrored: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Cuts each image out at its corner of the padded one, and mirrors some.

    Args:
        inputs: (n, 3, size, size), prepared.
        corner: (n, 2), row and column in the padded image.
        mirrored: (n,).
    """
    size = inputs.shape[-1]
    black = -_planes(MEAN) / _planes(STD)
    around = ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD))
    padded = np.pad(inputs - black, around) + black
    rows, columns = (corner[:, i, None] + np.arange(size) for i in (0, 1))
    each = np.arange(len(inputs))[:, None, None]
    # (n, size, size, channels): the indexed axes come first.
    cropped = padded[each, :, rows[:, :, None], columns[:, None, :]]
    crops = np.moveaxis(cropped, 3, 1)
    found: NDArray[np.float32] = np.where(
        mirrored[:, None, None, None], crops[..., ::-1], crops
    )
    return found


def _planes(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None, None]


task = Task(
    name="cifar10",
    model=by_name("edge_sdk.zoo.resnet:ResNet18Cifar"),
    loss=by_name("torch.nn.functional:cross_entropy"),
    train_data=load_partition,
    eval_data=eval_data,
    input_shape=(3, 32, 32),
    labels=LABELS,
    prepare=_prepare,
    augment=Crops(_cropped),
    # FLASH masks the 20 convolutions and keeps the last layer dense.
    dense_layers=frozenset({"fc.weight"}),
    batch_size=32,
)
resnet18_group = replace(
    task,
    name="cifar10-group",
    model=partial(by_name("edge_sdk.zoo.resnet:ResNet18Cifar"), norm="group"),
)
resnet20 = replace(
    task, name="cifar10-resnet20", model=by_name("edge_sdk.zoo.resnet:ResNet20")
)
resnet32 = replace(
    task, name="cifar10-resnet32", model=by_name("edge_sdk.zoo.resnet:ResNet32")
)
resnet44 = replace(
    task, name="cifar10-resnet44", model=by_name("edge_sdk.zoo.resnet:ResNet44")
)
resnet56 = replace(
    task, name="cifar10-resnet56", model=by_name("edge_sdk.zoo.resnet:ResNet56")
)
resnet110 = replace(
    task, name="cifar10-resnet110", model=by_name("edge_sdk.zoo.resnet:ResNet110")
)
mobilenetv2 = replace(
    task,
    name="cifar10-mobilenetv2",
    model=by_name("edge_sdk.zoo.mobilenet:MobileNetV2Cifar"),
)
vit = replace(
    task,
    name="cifar10-vit",
    model=by_name("edge_sdk.zoo.vit:VitTiny"),
    dense_layers=frozenset({"patches.weight", "head.weight"}),
)
