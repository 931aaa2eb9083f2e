"""Layer counts of candidate masks, the same on every side that knows their seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_sdk.sparse.density import exact_counts
from edge_sdk.sparse.mask import LayerShape

__all__ = ["candidate_counts"]

_DOMAIN = 0xCA2D  # of the random words that spread layer densities


def candidate_counts(
    layers: Sequence[LayerShape], density: float, count: int, spread: float, seed: int
) -> list[dict[str, int]]:
    """Kept weights per layer of each candidate: all of one density, spread otherwise.

    The first is uniform. Of the others each layer's density is the uniform one times a
    random factor from 1 - spread to 1 + spread, scaled to the density, with floors.

    Args:
        layers: The maskable layers.
        density: Of all candidates.
        count: How many, at least 1.
        spread: In [0, 1).
        seed: Of the factors.

    Raises:
        DensityError: If the density is out of range or below the unit floors.

    Example:
        >>> fc = LayerShape("fc", (4, 20)), LayerShape("out", (2, 10))
        >>> [sum(c.values()) for c in candidate_counts(fc, 0.4, 3, 0.5, 1)]
        [40, 40, 40]
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, _DOMAIN]))
    noise = 1 + spread * rng.uniform(-1, 1, size=(count, len(layers)))
    noise[0] = 1.0
    return [exact_counts(profile, layers, density) for profile in noise]
