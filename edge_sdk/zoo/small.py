"""The small convolutional networks of the federated-learning papers.

None ends in a softmax. ``cross_entropy`` takes logits and applies its own: FLASH's
released MNIST model applied one more before it, which flattens the gradients and costs
accuracy at the same number of rounds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

__all__ = ["DigitsNet", "FemnistCnn", "McMahanCnn", "MnistNet"]


class MnistNet(nn.Module):
    """FLASH's MNIST network (arXiv:2208.13092): 261,840 parameters.

    Input (N, 1, 28, 28) float32, output (N, 10) logits. The maps are 28 -> 24 -> 22 ->
    18 -> 16. FLASH masks conv2 and fc1 only, 261,000 weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(5120, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = F.relu(F.max_pool2d(self.conv1(inputs), 3, stride=1))
        maps = F.relu(F.max_pool2d(self.conv2(maps), 3, stride=1))
        hidden = F.relu(self.fc1(torch.flatten(maps, 1)))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


class _TwoConvolutions(nn.Module):
    """Two padded convolutions with a pool of 2 behind each, and two linear layers."""

    def __init__(
        self, maps: tuple[int, int], kernel: int, hidden: int, side: int, classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, maps[0], kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(*maps, kernel, padding=kernel // 2)
        self.fc1 = nn.Linear(maps[1] * (side // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        maps = F.max_pool2d(F.relu(self.conv1(inputs)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        hidden = F.relu(self.fc1(torch.flatten(maps, 1)))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


class FemnistCnn(_TwoConvolutions):
    """LEAF's FEMNIST network (arXiv:1812.01097): 6,603,710 parameters at 62 classes.

    Input (N, 1, 28, 28) float32, output (N, classes) logits.
    """

    def __init__(self, classes: int = 62) -> None:
        super().__init__((32, 64), 5, hidden=2048, side=28, classes=classes)


class McMahanCnn(_TwoConvolutions):
    """The MNIST network of the FedAvg paper (arXiv:1602.05629): 1,663,370 parameters.

    Input (N, 1, 28, 28) float32, output (N, 10) logits.
    """

    def __init__(self) -> None:
        super().__init__((32, 64), 5, hidden=512, side=28, classes=10)


class DigitsNet(_TwoConvolutions):
    """A network for 8x8 digits that trains in a second: 13,706 parameters.

    Input (N, 1, 8, 8) float32, output (N, 10) logits. The layers have the names of
    `MnistNet`, and of them conv2 and fc1 hold 12,800 weights.
    """

    def __init__(self) -> None:
        super().__init__((16, 32), 3, hidden=64, side=8, classes=10)
