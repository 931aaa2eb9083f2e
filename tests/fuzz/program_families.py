"""Models of the families that boards train, small enough to run in a fraction of a ms.

Layers, their order and their shapes of kernel are the zoo's. Images are small, and
where a constructor takes no widths the captured program is cut by units, as for a board
that can afford few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from fuzz.program_cases import SAMPLES
from torch import nn

from coordinator.algorithms.unit_masks import by_units
from edge_sdk.program.capture import capture
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.units import without_units
from edge_sdk.sparse import uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.zoo import (
    DenseAutoencoder,
    FemnistCnn,
    ImuNet,
    KeywordGru,
    KeywordNet,
    McMahanCnn,
    MobileNetV2Cifar,
    MotionTcn,
    ResNet18Cifar,
    ResNet20,
    SmallUNet,
    VitTiny,
)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A model, the shape of its inputs, and the density of units that it keeps."""

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    units: float = 1.0
    loss: Loss | None = None  # of the inputs themselves; else cross-entropy

    def program(self) -> TrainingProgram:
        """The captured program, on the units that it keeps."""
        torch.manual_seed(0)
        net, inputs = self.model(), torch.randn(SAMPLES, *self.shape)
        labels = torch.randint(0, 2, (SAMPLES,))
        targets = labels if self.loss is None else inputs
        found = capture(net, self.loss or F.cross_entropy, inputs, targets)
        if self.units == 1:
            return found
        layers = with_units(net, layers_of(net, frozenset()))
        boxes = by_units(uniform(layers), layers, (1.0, self.units), 7).boxes[
            self.units
        ]
        return without_units(found, boxes)


def _two_convolutions(net: nn.Module) -> nn.Module:
    """The network for images of 8 x 8 in place of 28 x 28."""
    net.fc1 = nn.Linear(64 * 2 * 2, net.fc1.out_features)
    return net


def _tcn() -> nn.Module:
    """Four channels in place of 56."""
    net = MotionTcn()
    blocks = [type(block)(4, 2**k) for k, block in enumerate(net.blocks)]
    net.conv1, net.fc = nn.Conv1d(6, 4, 1), nn.Linear(4, 7)
    net.blocks = nn.Sequential(*blocks)
    return net


def _vit() -> nn.Module:
    """Two blocks on 2 x 2 patches."""
    net = VitTiny(width=6, heads=3, depth=2)
    net.positions = nn.Parameter(torch.randn(1, 4, 6))
    return net


class _Lstm(nn.Module):
    """The keyword network's GRU as an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, frames, bands) -> logits."""
        steps, _ = self.lstm(x.flatten(1, 2))
        logits: torch.Tensor = self.fc(steps.mean(1))
        return logits


FAMILIES = {
    "resnet18": Family(ResNet18Cifar, (3, 8, 8), 0.002),
    "femnist": Family(lambda: _two_convolutions(FemnistCnn()), (1, 8, 8), 0.002),
    "mcmahan": Family(lambda: _two_convolutions(McMahanCnn()), (1, 8, 8), 0.01),
    "resnet20": Family(ResNet20, (3, 8, 8), 0.02),
    "ds-cnn": Family(KeywordNet, (1, 10, 8), 0.03),
    "mobilenet": Family(MobileNetV2Cifar, (3, 8, 8), 0.01),
    "cnn-1d": Family(ImuNet, (6, 16), 0.05),
    "tcn": Family(_tcn, (6, 16)),
    "gru": Family(lambda: KeywordGru(4, 6, 3), (1, 4, 4)),
    "lstm": Family(_Lstm, (1, 4, 4)),
    "vit": Family(_vit, (3, 8, 8)),
    "autoencoder": Family(lambda: DenseAutoencoder(8, 6, 3), (8,), loss=F.mse_loss),
    "u-net": Family(lambda: SmallUNet(width=2), (1, 8, 8), loss=F.mse_loss),
}
