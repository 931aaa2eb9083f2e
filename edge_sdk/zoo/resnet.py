"""Residual networks for 32x32 images: ResNet-18 and the thin family of He et al."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

__all__ = [
    "ResNet18Cifar",
    "ResNet20",
    "ResNet32",
    "ResNet44",
    "ResNet56",
    "ResNet110",
    "ResNetCifar",
]

Norm: TypeAlias = Literal["batch", "group"]

# Running statistics of batch norm, averaged over devices with unlike data, are biased;
# group norm has none (Hsieh et al., arXiv:1910.00189). At most 32 groups as in Wu & He,
# arXiv:1803.08494, and at least two channels in each.
_GROUPS = 32


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(_GROUPS, channels // 2), channels)


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False
    )


class _ProjectedBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut is a 1x1 one."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm1 = _norm(norm, outputs)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.norm2 = _norm(norm, outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, 1, stride), _norm(norm, outputs)
            )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        maps = F.relu(self.norm1(self.conv1(inputs)))
        maps = self.norm2(self.conv2(maps))
        return F.relu(maps + self.shortcut(inputs))


class _PaddedBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut subsamples and pads with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm1 = _norm(norm, outputs)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.norm2 = _norm(norm, outputs)
        self.stride = stride
        self.pad = (outputs - inputs) // 2

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        maps = F.relu(self.norm1(self.conv1(inputs)))
        maps = self.norm2(self.conv2(maps))
        passed = inputs
        if self.pad:
            passed = inputs[:, :, :: self.stride, :: self.stride]
            passed = F.pad(passed, (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(maps + passed)


class ResNet18Cifar(nn.Module):
    """ResNet-18 with a 3x3 stem and no max-pool: 11,173,962 parameters at 10 classes.

    Input (N, 3, S, S) float32 with S a multiple of 8, output (N, classes) logits. The
    20 convolutions hold 11,159,232 weights, FLASH's maskable set. Initialised as FLASH
    does: convolutions Xavier-uniform with gain 0.5, the last layer N(0, 0.01).

    Args:
        classes: Outputs.
        norm: "batch" as in FLASH, or "group", which has no running statistics.
    """

    def __init__(self, classes: int = 10, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 3, 1)
        self.norm1 = _norm(norm, 64)
        self.layer1 = self._stage(64, 64, 1, norm)
        self.layer2 = self._stage(64, 128, 2, norm)
        self.layer3 = self._stage(128, 256, 2, norm)
        self.layer4 = self._stage(256, 512, 2, norm)
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, gain=0.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential:
        return nn.Sequential(
            _ProjectedBlock(inputs, outputs, stride, norm),
            _ProjectedBlock(outputs, outputs, 1, norm),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = F.relu(self.norm1(self.conv1(inputs)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        logits: torch.Tensor = self.fc(maps.mean((2, 3)))
        return logits


class ResNetCifar(nn.Module):
    """The thin CIFAR family of He et al. (arXiv:1512.03385, 4.2): depth 6n + 2.

    Input (N, 3, 32, 32) float32, output (N, classes) logits. Widths 16, 32, 64; the
    shortcuts have no parameters (option A). Convolutions Kaiming-normal.

    Args:
        classes: Outputs.
        norm: "batch", or "group", which has no running statistics.

    Attributes:
        blocks: Blocks per stage, the n of the paper.
    """

    blocks: ClassVar[int]

    def __init__(self, classes: int = 10, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv1 = _conv(3, 16, 3, 1)
        self.norm1 = _norm(norm, 16)
        self.layer1 = self._stage(16, 16, norm)
        self.layer2 = self._stage(16, 32, norm)
        self.layer3 = self._stage(32, 64, norm)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def _stage(self, inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
        first = _PaddedBlock(inputs, outputs, outputs // inputs, norm)
        rest = (_PaddedBlock(outputs, outputs, 1, norm) for _ in range(self.blocks - 1))
        return nn.Sequential(first, *rest)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = F.relu(self.norm1(self.conv1(inputs)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: torch.Tensor = self.fc(maps.mean((2, 3)))
        return logits


class ResNet20(ResNetCifar):
    """269,722 parameters at 10 classes."""

    blocks = 3


class ResNet32(ResNetCifar):
    """464,154 parameters at 10 classes."""

    blocks = 5


class ResNet44(ResNetCifar):
    """658,586 parameters at 10 classes."""

    blocks = 7


class ResNet56(ResNetCifar):
    """853,018 parameters at 10 classes."""

    blocks = 9


class ResNet110(ResNetCifar):
    """1,727,962 parameters at 10 classes."""

    blocks = 18
