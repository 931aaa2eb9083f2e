"""Normalisation of a batch, shared by the tasks of 28x28 gray images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import load_partition
from edge_sdk.tasks.task import Examples

__all__ = ["eval_data", "normalise"]


def normalise(
    inputs: NDArray[np.generic], *, mean: float, std: float
) -> NDArray[np.float32]:
    """Uint8 (n, 1, 28, 28) -> float32 of that shape, (x / 255 - mean) / std."""
    share = inputs.astype(np.float32) / np.float32(255.0)
    scaled: NDArray[np.float32] = (share - np.float32(mean)) / np.float32(std)
    return scaled.reshape(-1, 1, 28, 28)


def eval_data(folder: Path) -> Examples:
    """The ``eval.npz`` in a folder, read by `load_partition`."""
    return load_partition(folder, part="eval")
