"""Small networks for signals: keyword spotting on spectrograms, motion on raw axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

__all__ = ["ImuNet", "KeywordGru", "KeywordNet", "MotionTcn"]


class KeywordNet(nn.Module):
    """A depth-wise separable CNN for spectrograms: 23,050 parameters at 10 classes.

    The small DS-CNN of Zhang et al. (arXiv:1711.07128): a 10x4 stem of stride 2 and
    four blocks of a 3x3 depth-wise and a 1x1 convolution, 64 channels throughout. Input
    (N, 1, frames, bands) float32, output (N, classes) logits.

    Args:
        classes: Outputs.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, (10, 4), stride=2, padding=(5, 2), bias=False)
        self.norm1 = nn.BatchNorm2d(64)
        self.blocks = nn.Sequential(*(_Separable(64) for _ in range(4)))
        self.fc = nn.Linear(64, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = self.blocks(F.relu(self.norm1(self.conv1(inputs))))
        logits: torch.Tensor = self.fc(maps.mean((2, 3)))
        return logits


class _Separable(nn.Module):
    """Depth-wise 3x3, then 1x1, each with batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels)
        self.point = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        maps = F.relu(self.norm1(self.depth(inputs)))
        return F.relu(self.norm2(self.point(maps)))


class KeywordGru(nn.Module):
    """A GRU for spectrograms: 66,570 parameters at 40 bands, 128 units, 10 classes.

    One layer reads a frame's bands at each step; the head reads the mean of its outputs
    over all steps. Input (N, 1, frames, bands) float32, output (N, classes) logits.

    Args:
        bands: Values of a frame.
        units: Of the layer.
        classes: Outputs.
    """

    def __init__(self, bands: int = 40, units: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(bands, units, batch_first=True)
        self.fc = nn.Linear(units, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        steps, _ = self.gru(inputs.flatten(1, 2))
        logits: torch.Tensor = self.fc(steps.mean(1))
        return logits


class ImuNet(nn.Module):
    """A 1-D CNN for windows of motion sensors: 35,303 parameters at 6 axes, 7 classes.

    Input (N, axes, steps) float32 with at least 8 steps, output (N, classes) logits.
    Training programs have a sparse form of its layers; the sparse engine has none.

    Args:
        axes: Channels of a sample.
        classes: Outputs.
    """

    def __init__(self, axes: int = 6, classes: int = 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(axes, 32, 5, padding=2)
        self.conv2 = nn.Conv1d(32, 64, 5, padding=2)
        self.conv3 = nn.Conv1d(64, 64, 5, padding=2)
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = F.max_pool1d(F.relu(self.conv1(inputs)), 2)
        maps = F.max_pool1d(F.relu(self.conv2(maps)), 2)
        maps = F.relu(self.conv3(maps)).mean(2)
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(maps)))
        return logits


class MotionTcn(nn.Module):
    """A temporal convolutional network (arXiv:1803.01271): 76,951 parameters.

    Four residual blocks of two causal convolutions, whose reach doubles from block to
    block: 61 steps in all. Input (N, axes, steps) float32, output (N, classes) logits.

    Args:
        axes: Channels of a sample.
        classes: Outputs.
    """

    def __init__(self, axes: int = 6, classes: int = 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(axes, 56, 1)
        self.blocks = nn.Sequential(*(_Causal(56, 2**k) for k in range(4)))
        self.fc = nn.Linear(56, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = self.blocks(self.conv1(inputs))
        logits: torch.Tensor = self.fc(maps.mean(2))
        return logits


class _Causal(nn.Module):
    """Two dilated convolutions that see no later step, and the input added."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv1 = nn.Conv1d(channels, channels, 3, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, dilation=dilation, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, C, T) -> the same shape."""
        maps = F.relu(self.norm1(self.conv1(F.pad(inputs, (self.reach, 0)))))
        maps = self.norm2(self.conv2(F.pad(maps, (self.reach, 0))))
        return F.relu(maps + inputs)
