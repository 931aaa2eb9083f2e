"""A small U-Net: images in, images of the same size out."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

__all__ = ["SmallUNet"]


class SmallUNet(nn.Module):
    """A U-Net (arXiv:1505.04597) of three levels: 105,553 parameters at one channel.

    Input (N, channels, H, W) float32 with H and W divisible by 4, output (N, outputs,
    H, W): logits of a segmentation, or an image. Levels are joined by sums, not by
    concatenation, which halves the widest activations of the way up.

    Args:
        channels: Of the input.
        outputs: Of the output.
        width: Channels of the first level; each further one has twice as many.
    """

    def __init__(self, channels: int = 1, outputs: int = 1, width: int = 16) -> None:
        super().__init__()
        self.down1 = _Double(channels, width)
        self.down2 = _Double(width, 2 * width)
        self.bottom = _Double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = _Double(2 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = _Double(width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """An image; see the class for shapes."""
        first = self.down1(inputs)
        second = self.down2(F.max_pool2d(first, 2))
        lowest = self.bottom(F.max_pool2d(second, 2))
        second = self.join2(self.up2(lowest) + second)
        first = self.join1(self.up1(second) + first)
        image: torch.Tensor = self.head(first)
        return image


class _Double(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        maps = F.relu(self.norm1(self.conv1(inputs)))
        return F.relu(self.norm2(self.conv2(maps)))
