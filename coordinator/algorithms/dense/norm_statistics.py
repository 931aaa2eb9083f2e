"""`NormStatistics`: batch norm's running statistics for each mask of a family.

A nested network's activations have other moments than the largest one's. A batch is
normalised by its own in training, and by running statistics afterwards: pooled over
devices of several masks they fit none of the networks. So each mask has those of the
devices that train it, as slimmable networks have them for each width
(arXiv:1812.08928).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.dense.entries import DenseMean, variance_of

__all__ = ["Entries", "NormStatistics", "norms_in"]

Entries: TypeAlias = Mapping[str, NDArray[Any]]


def norms_in(names: Iterable[str]) -> list[str]:
    """Names of running means and variances that are there in pairs.

    Example:
        >>> norms_in(["norm.running_mean", "norm.running_var", "a.running_mean"])
        ['norm.running_mean', 'norm.running_var']
    """
    there = list(names)
    means = [name for name in there if variance_of(name) in there]
    return [pair for name in means for pair in (name, variance_of(name))]


class NormStatistics:
    """Weighted means of norm statistics, one for each mask of a round's updates.

    Args:
        dense: The model's dense entries that travel.
        before: Digest of a mask, in hexadecimal, to the statistics that it has so far.
    """

    def __init__(self, dense: Entries, before: Mapping[str, Entries]) -> None:
        self._before = before
        self._base = {name: dense[name] for name in norms_in(dense)}
        self._means: dict[str, DenseMean] = {}

    def add(
        self,
        mask: bytes,
        change: Entries,
        share: float,
        idle: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Add a device's change.

        Args:
            mask: Digest of its mask.
            change: Entry to the device's change of what it was sent.
            share: The device's weight in the mean, above 0.
            idle: Entry to True where its unit is cut on the device.
        """
        if not self._base:
            return
        of = mask.hex()
        if of not in self._means:
            self._means[of] = DenseMean({**self._base, **self._before.get(of, {})})
        self._means[of].add(change, share, idle)

    def result(self) -> dict[str, Entries]:
        """Digest to statistics; those of a mask without an update stay."""
        found = {of: mean.result() for of, mean in self._means.items()}
        return dict(sorted({**self._before, **found}.items()))
