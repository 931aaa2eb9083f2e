"""Entries of the dense remainder in the dtype that the user's model has them in.

On the wire there are float32 and int64 only; means are reckoned in float64. What comes
of it is an entry of the model again: whole, within its dtype, and the very same where
no device has changed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.wire.dense import is_whole

__all__ = ["DenseMean", "as_entry", "variance_of", "within"]


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


class DenseMean:
    """Weighted mean of the dense remainder; batch-norm variances are pooled.

    The variance of a mixture is E[var] + Var[mean]; averaging variances alone drops the
    second term, which under non-IID data is not small.
    """

    def __init__(self, base: Mapping[str, NDArray[Any]]) -> None:
        self._base, self.weight = base, 0.0
        self._moved: set[str] = set()
        self._held: set[str] = set()  # entries that updates have: not those apart
        self._absent: dict[str, NDArray[np.float64]] = {}  # weight of who had it idle
        self._sum = {n: np.zeros(a.shape, np.float64) for n, a in base.items()}
        self._square = {
            n: np.zeros(base[n].shape, np.float64)
            for n in base
            if variance_of(n) in base
        }

    def add(
        self,
        change: Mapping[str, NDArray[Any]],
        share: float,
        idle: Mapping[str, NDArray[np.bool_]],
        sent: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        """Add a device's change; what it has idle does not count.

        Args:
            change: Entry to the device's change; one that it has not stays.
            share: The device's weight in the mean, above 0.
            idle: Entry to True where its unit is cut on the device.
            sent: Entries that the device was sent in place of the base's.
        """
        self.weight += share
        for name, base in self._base.items():
            if name not in change:
                continue
            self._held.add(name)
            if name not in self._moved and (name in sent or change[name].any()):
                self._moved.add(name)
            start = sent.get(name, base)
            after = within(start.astype(np.float64) + change[name], base)
            own: float | NDArray[np.float64] = share
            if name in idle:
                out = idle[name].reshape(-1, *[1] * (base.ndim - 1))
                own = np.where(out, 0.0, share)
                absent = self._absent.setdefault(name, np.zeros(out.shape, np.float64))
                absent += share - own
            self._sum[name] += own * after
            if name in self._square:
                self._square[name] += own * after**2

    def result(self) -> dict[str, NDArray[Any]]:
        """The entries of the next model; the base's own where no device had them."""
        held = self._held
        mean = {n: self._mean(n, s) for n, s in self._sum.items() if n in held}
        for name, square in self._square.items():
            if not held.issuperset((name, variance_of(name))):
                continue
            spread = self._mean(name, square, 2) - mean[name] ** 2
            mean[variance_of(name)] += np.maximum(spread, 0.0)
        for name, value in mean.items():
            if name.endswith("running_var"):  # rounding may leave it just below 0
                np.maximum(value, 0.0, out=value)
        return {
            name: as_entry(mean[name], base, moved=name in self._moved)
            if name in mean
            else base
            for name, base in self._base.items()
        }

    def _mean(
        self, name: str, total: NDArray[np.float64], power: int = 1
    ) -> NDArray[np.float64]:
        """A sum over those who had the entry; the base's own where nobody had."""
        if name not in self._absent:
            return total / self.weight
        by = np.broadcast_to(self.weight - self._absent[name], total.shape)
        kept = self._base[name].astype(np.float64) ** power
        return np.divide(total, by, where=by > 0, out=kept)


def variance_of(name: str) -> str:
    """Name of the running variance beside a running mean; empty for any other entry."""
    stem = name.removesuffix("running_mean")
    return f"{stem}running_var" if stem != name else ""
