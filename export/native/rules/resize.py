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
    shrinks = bool(attributes.get("antialias", 0)) and factor < 1
    if mode == "cubic" or (mode == "linear" and shrinks):
        coefficient = attributes.get("cubic_coeff_a", -0.75)
        outside = not attributes.get("exclude_outside", 0)
        reach = factor if shrinks else 1.0
        return _shares(at, before, reach, mode, coefficient, outside=outside)
    matrix = np.zeros((after, before), np.float64)
    rows = np.arange(after)
    if mode == "nearest":
        rounded = _nearest(at, attributes.get("nearest_mode", b"round_prefer_floor"))
        matrix[rows, np.clip(rounded, 0, before - 1).astype(int)] = 1
    elif mode == "linear":
        low = np.floor(at)
        for place, share in ((low, 1 - (at - low)), (low + 1, at - low)):
            np.add.at(matrix, (rows, np.clip(place, 0, before - 1).astype(int)), share)
    else:
        raise ValueError(f"interpolates by {mode}, in a way that is not supported")
    return matrix.astype(np.float32)


def _shares(
    at: NDArray[np.float64],
    before: int,
    factor: float,
    mode: str,
    coefficient: float,
    *,
    outside: bool,
) -> NDArray[np.float32]:
    """Shares by a kernel that is as wide as the places that one stands for.

    Places outside count as the edge does, or not at all; shares add up to 1.
    """
    beyond = int(np.ceil(2 / factor)) + 1
    places = np.arange(-beyond, before + beyond)
    away = (places - at[:, None]) * factor
    near = np.clip(1 - np.abs(away), 0, None)
    shares = near if mode == "linear" else _cubic(away, coefficient)
    matrix = np.zeros((before, len(at)), np.float64)
    inside = slice(None) if outside else slice(beyond, beyond + before)
    columns = np.clip(places, 0, before - 1)
    np.add.at(matrix, columns[inside], shares.T[inside])
    found: NDArray[np.float32] = (matrix / matrix.sum(0)).T.astype(np.float32)
    return found


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
