"""Blocked arrays in numpy, and kernels called by name on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.kernels.library import Kernels, kernels

DTYPES = {
    "f64": (torch.float64, np.dtype(np.float64), 1e-12),
    "f32": (torch.float32, np.dtype(np.float32), 1e-5),
}
Array = NDArray[Any]


def library(precision: str) -> Kernels:
    return kernels(DTYPES[precision][0])


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Filled with NaN, on a 64-byte boundary: what a kernel forgets to write shows."""
    count = int(np.prod(shape))
    raw = np.empty(count * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
    if dtype.kind == "f":
        out.fill(np.nan)
    return out


def blocked(x: torch.Tensor, lanes: int, dtype: np.dtype[Any]) -> Array:
    """(N, ...) to (blocks, ..., lanes), padded lanes zero."""
    values = x.detach().numpy().astype(dtype)
    blocks = -(-len(values) // lanes)
    padded = np.zeros((blocks * lanes, *values.shape[1:]), dtype)
    padded[: len(values)] = values
    out = aligned((blocks, *values.shape[1:], lanes), dtype)
    out[...] = np.moveaxis(padded.reshape(blocks, lanes, *values.shape[1:]), 1, -1)
    return out


def unblocked(x: Array, samples: int) -> Array:
    y = np.moveaxis(x, -1, 1)
    return y.reshape(-1, *y.shape[2:])[:samples]


def padding(x: Array, samples: int) -> Array:
    """The padded lanes of the last block."""
    return x[-1, ..., samples - (len(x) - 1) * x.shape[-1] :]


def flat(x: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    out = aligned(tuple(x.shape), dtype)
    out[...] = x.detach().numpy()
    return out


def address(x: Array | None) -> int | None:
    return None if x is None else x.ctypes.data


def near(ours: Array, reference: torch.Tensor, tolerance: float) -> None:
    """Within the tolerance of the largest value (at least 1)."""
    expected = reference.detach().numpy()
    assert ours.shape == expected.shape
    if not expected.size:
        return
    scale = max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(ours.astype(np.float64) - expected).max())
    assert worst <= tolerance * scale, (worst, scale)
