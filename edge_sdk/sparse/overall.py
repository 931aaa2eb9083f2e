"""Layer densities of the largest scores over all layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sdk.sparse.mask import LayerShape
from edge_sdk.sparse.select import top_k

__all__ = ["largest_overall"]


def largest_overall(
    layers: Sequence[LayerShape],
    scores: Mapping[str, NDArray[np.floating]],
    density: float,
    key: str,
) -> NDArray[np.float64]:
    """Share of each layer's weights that is among the largest scores of all: (layers,).

    A profile for `exact_counts`, which adds the floors without which a layer may be
    left with nothing.

    Args:
        layers: The maskable layers.
        scores: Weight name to scores of its weights, all of them or some.
        density: How many are looked for, as a share of all weights.
        key: Orders equals.

    Raises:
        SparsityError: If there are fewer scores, or one is nan.

    Example:
        >>> fc = LayerShape("fc", (1, 4)), LayerShape("out", (1, 2))
        >>> scores = {"fc": np.array([9.0, 1, 2, 8]), "out": np.array([5.0, 7])}
        >>> largest_overall(fc, scores, 0.5, "").tolist()
        [0.5, 0.5]
    """
    flat = [scores[s.name].reshape(-1) for s in layers]
    wanted = int(density * sum(s.numel for s in layers) + 1e-9)
    best = top_k(np.concatenate(flat), wanted, key)
    parts = np.split(best, np.cumsum([f.size for f in flat])[:-1])
    kept = [np.count_nonzero(part) for part in parts]
    return np.array([k / s.numel for k, s in zip(kept, layers, strict=True)])
