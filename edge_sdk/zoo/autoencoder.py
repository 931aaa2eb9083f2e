"""A dense autoencoder, whose error of reconstruction tells what is not normal."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

__all__ = ["DenseAutoencoder", "for_images"]


class DenseAutoencoder(nn.Module):
    """The autoencoder of MLPerf Tiny's anomaly benchmark (arXiv:2106.07597).

    Input and output (N, features) float32; 640 features give 267,928 parameters. Eight
    hidden layers of 128 with batch norm and ReLU, and 8 values in the middle.
    """

    def __init__(self, features: int = 640, hidden: int = 128, code: int = 8) -> None:
        super().__init__()
        widths = [features, *[hidden] * 4, code, *[hidden] * 4, features]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths[:-1]):
            layers += (
                nn.Linear(width, following),
                nn.BatchNorm1d(following),
                nn.ReLU(),
            )
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the network rebuilds them, (N, features)."""
        out: torch.Tensor = self.layers(inputs)
        return out


def for_images() -> DenseAutoencoder:
    """The autoencoder of 28x28 images, (N, 784) in and out."""
    return DenseAutoencoder(28 * 28)
