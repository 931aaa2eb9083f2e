"""RigL's move: the smallest weights of a layer give way to the largest gradients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_sdk.sparse.select import top_k

__all__ = ["regrow"]


def regrow(
    weights: Mapping[str, NDArray[np.float32]],
    gradients: Mapping[str, NDArray[np.floating]],
    patterns: Mapping[str, NDArray[np.bool_]],
    share: float,
    key: str,
) -> dict[str, NDArray[np.bool_]]:
    """RigL's move (arXiv:1911.11134): each layer keeps its number of weights.

    Args:
        weights: Name to weights of the layer's shape, 0 off the pattern.
        gradients: Dense, alike.
        patterns: What is kept now.
        share: Of each layer's kept weights the share that is replaced, smallest
            magnitudes first, by the free places of the largest gradient magnitude.
        key: Orders equals, such as the gradients of 0 of a dead unit.
    """
    after: dict[str, NDArray[np.bool_]] = {}
    for name, pattern in patterns.items():
        kept = int(np.count_nonzero(pattern))
        gone = min(int(share * kept), pattern.size - kept)
        size = np.where(pattern, np.abs(weights[name]), -1.0)
        stays = top_k(size, kept - gone, f"{key} {name} stays")
        slope = np.where(pattern, -1.0, np.abs(gradients[name]))
        after[name] = stays | top_k(slope, gone, f"{key} {name} grows")
    return after
