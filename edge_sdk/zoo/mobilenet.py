"""MobileNetV2 for images of 32 x 32 pixels."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["MobileNetV2Cifar"]

# Expansion, channels, blocks and first stride of each stage. The paper's strides of 2
# in the stem and in the second stage are 1 here, as usual for 32 x 32 pixels.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
    (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNetV2Cifar(nn.Module):
    """MobileNetV2 (arXiv:1801.04381) for CIFAR: 2,236,682 parameters at 10 classes.

    Input (N, 3, 32, 32) float32, output (N, classes) logits. The norms and depth-wise
    layers hold 4.4 per cent of the weights and hardly shrink with density.

    Args:
        classes: Outputs.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        blocks: list[nn.Module] = []
        before = 32
        for expansion, channels, count, first in _STAGES:
            for at in range(count):
                stride = first if at == 0 else 1
                blocks.append(_Inverted(before, channels, stride, expansion))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(before, 1280, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(1280)
        self.act = nn.ReLU6()
        self.fc = nn.Linear(1280, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = self.blocks(self.act(self.norm1(self.conv1(inputs))))
        maps = self.act(self.norm2(self.conv2(maps)))
        logits: torch.Tensor = self.fc(maps.mean((2, 3)))
        return logits


class _Inverted(nn.Module):
    """1x1 up, 3x3 depth-wise, 1x1 down; the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        up = [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.up = nn.Sequential(*(up if expansion > 1 else []))
        self.depth = nn.Conv2d(
            wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False
        )
        self.norm1 = nn.BatchNorm2d(wide)
        self.act = nn.ReLU6()
        self.down = nn.Conv2d(wide, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, outputs, H / stride, W / stride)."""
        maps: torch.Tensor = self.act(self.norm1(self.depth(self.up(inputs))))
        maps = self.norm2(self.down(maps))
        return inputs + maps if self.adds else maps
