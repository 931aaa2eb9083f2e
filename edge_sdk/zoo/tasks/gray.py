"""Normalisation of a batch, shared by the tasks of 28x28 gray images."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Examples

__all__ = ["eval_data", "normalise"]


def normalise(inputs: torch.Tensor, *, mean: float, std: float) -> torch.Tensor:
    """Uint8 (n, 1, 28, 28) -> float32 of that shape, (x / 255 - mean) / std."""
    scaled = (inputs.to(torch.float32) / 255.0 - mean) / std
    return scaled.reshape(-1, 1, 28, 28)


def eval_data(folder: Path) -> Examples:
    """The ``eval.npz`` in a folder, read by `load_partition`."""
    return load_partition(folder, part="eval")
