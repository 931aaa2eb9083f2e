"""Layers of a run's masks: kept weights, and how many devices held them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

__all__ = ["Coverage", "LayerView", "View", "WarmUpView", "coverage"]


class View:
    """A view that commands and page give as JSON."""

    __slots__ = ()

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer."""

    name: str  # its name
    size: int  # its weights
    measured: float | None  # how many the warm-up kept; None if it measured none
    kept: Mapping[str, int]  # how many are kept, by density as text


@dataclass(frozen=True, slots=True)
class WarmUpView(View):
    """Layer densities of a run; `measured` says whether the warm-up measured them."""

    measured: bool
    densities: Sequence[str]
    layers: Sequence[LayerView]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of one layer: pairs of devices, and weights that so many held."""

    name: str
    size: int
    held: Sequence[tuple[int, int]]


def coverage(
    sizes: Mapping[str, int], held: Sequence[Mapping[str, int]]
) -> list[Coverage]:
    """The coverage of each layer.

    Masks of one family nest, so the weights that a device holds beyond the next
    smaller device's are held by it and all larger ones.

    Args:
        sizes: Weights per layer.
        held: Kept weights per layer, for each device in the aggregate.

    Example:
        >>> coverage({"fc": 10}, [{"fc": 2}, {"fc": 5}])
        [Coverage(name='fc', size=10, held=[(2, 2), (1, 3), (0, 5)])]
    """
    if not held:
        return []
    found = []
    for name, size in sizes.items():
        steps = sorted(counts.get(name, 0) for counts in held)
        weights: Counter[int] = Counter()
        for place, (below, here) in enumerate(pairwise([0, *steps, size])):
            weights[len(held) - place] += here - below
        rows = [(d, n) for d, n in sorted(weights.items(), reverse=True) if n]
        found.append(Coverage(name, size, rows))
    return found
