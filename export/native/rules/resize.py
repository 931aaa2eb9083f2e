"""`resize_matrix`: interpolation along one axis, as a matrix with few values a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_matrix"]


def resize_matrix(
    before: int, after: int, scale: float | None, attributes: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Shares that `after` places take of `before` places: float32 (after, before).

    Args:
        before: Size of the axis.
        after: Size that it gets.
        scale: As the node gives it; None where it gives sizes.
        attributes: Of ONNX's Resize.

    Raises:
        ValueError: If the mode is another than nearest, linear and cubic.
    """
    mode = attributes.get("mode", b"nearest").decode()
    way = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    factor = after / before if scale is None else scale
    at = _coordinates(np.arange(after, dtype=np.float64), before, after, factor, way)
    if attributes.get("antialias", 0) and factor < 1:
        raise ValueError("smooths while it shrinks (antialias)")
    matrix = np.zeros((after, before), np.float64)
    rows = np.arange(after)
    if mode == "nearest":
        rounded = _nearest(at, attributes.get("nearest_mode", b"round_prefer_floor"))
        matrix[rows, np.clip(rounded, 0, before - 1).astype(int)] = 1
    elif mode == "linear":
        low = np.floor(at)
        for place, share in ((low, 1 - (at - low)), (low + 1, at - low)):
            np.add.at(matrix, (rows, np.clip(place, 0, before - 1).astype(int)), share)
    elif mode == "cubic" and not attributes.get("exclude_outside", 0):
        first = np.floor(at)
        for near in range(-1, 3):
            share = _cubic(at - first - near, attributes.get("cubic_coeff_a", -0.75))
            columns = np.clip(first + near, 0, before - 1).astype(int)
            np.add.at(matrix, (rows, columns), share)
    else:
        raise ValueError(f"interpolates by {mode}, in a way that is not supported")
    return matrix.astype(np.float32)


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys' kernel: what a place at this distance counts."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _nearest(at: NDArray[np.float64], way: bytes) -> NDArray[np.float64]:
    if way == b"floor":
        return np.floor(at)
    if way == b"ceil":
        return np.ceil(at)
    return np.floor(at + 0.5) if way == b"round_prefer_ceil" else np.ceil(at - 0.5)


def _coordinates(
    index: NDArray[np.float64], before: int, after: int, factor: float, way: str
) -> NDArray[np.float64]:
    if way == "asymmetric":
        return index / factor
    if way == "align_corners":
        return index * (before - 1) / (after - 1) if after > 1 else index * 0
    if way == "half_pixel" or (way == "pytorch_half_pixel" and after > 1):
        return (index + 0.5) / factor - 0.5
    if way == "pytorch_half_pixel":
        return index * 0
    raise ValueError(f"places pixels by {way}")
