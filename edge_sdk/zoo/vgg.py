"""VGG-11 for 32x32 images."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Vgg11"]


class Vgg11(nn.Module):
    """VGG-11 with batch norm and one linear layer: 9,231,114 parameters at 10 classes.

    Configuration A of Simonyan & Zisserman (arXiv:1409.1556), with the three linear
    layers made for 224x224 images replaced by one. Input (N, 3, 32, 32) float32, output
    (N, classes) logits.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 64, pool=True),
            *_block(64, 128, pool=True),
            *_block(128, 256),
            *_block(256, 256, pool=True),
            *_block(256, 512),
            *_block(512, 512, pool=True),
            *_block(512, 512),
            *_block(512, 512, pool=True),
        )
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        logits: torch.Tensor = self.fc(torch.flatten(self.features(inputs), 1))
        return logits


def _block(inputs: int, outputs: int, *, pool: bool = False) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    layers = [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)] if pool else layers
