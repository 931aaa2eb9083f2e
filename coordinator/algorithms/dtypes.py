"""Entries of the dense remainder in the dtype that the user's model has them in.

On the wire there are float32 and int64 only; means are reckoned in float64. What comes
of it is an entry of the model again: whole, within its dtype, and the very same where
no device has changed it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.wire.dense import is_whole

__all__ = ["as_entry", "within"]


def within(value: NDArray[Any], base: NDArray[Any]) -> NDArray[Any]:
    """The values, none outside of what an entry's dtype can hold.

    Example:
        >>> within(np.array([-3.0, 0.5, 9.0]), np.array([True])).tolist()
        [0.0, 0.5, 1.0]
    """
    if base.dtype.kind == "b":
        return np.asarray(np.clip(value, 0, 1))
    if not is_whole(base.dtype):
        return value
    limits = np.iinfo(base.dtype)
    # As float64 the top of 64 bits rounds up to what is one too large.
    top = float(limits.max - (2047 if base.dtype.itemsize == 8 else 0))
    return np.asarray(np.clip(value, float(limits.min), top))


def as_entry(
    value: NDArray[np.float64], base: NDArray[Any], *, moved: bool
) -> NDArray[Any]:
    """A mean as the next value of an entry.

    Args:
        value: The mean, of the entry's shape.
        base: The entry before.
        moved: Whether any device has changed it. Unmoved it stays bit for bit: 64-bit
            integers and float64 pass through no rounding.
    """
    if not moved and base.dtype != np.float32:
        return base
    if is_whole(base.dtype):
        value = within(np.rint(value), base)
    return np.asarray(value).astype(base.dtype)
