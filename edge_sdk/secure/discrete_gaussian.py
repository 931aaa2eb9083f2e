"""Discrete Gaussian noise: whole numbers, drawn from a secret and from nothing else.

A number k has a chance in proportion to exp(-k**2 / (2 * deviation**2)) (Canonne,
Kamath and Steinke, arXiv:2004.00010). It is drawn by a table of cumulated chances in
units of 2**-63, summed as whole numbers: the chance of each k is right to some 2**-52
of it, and what lies beyond the table comes to less than 2**-60.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_sdk.secure.keys import noise_key
from edge_sdk.secure.masks import random_bytes

__all__ = ["MOST_DEVIATION", "chances", "discrete_gaussian", "own_noise"]

MOST_DEVIATION = 1 << 15  # whose table has 300,000 numbers
_REACH = 9.5  # deviations that a table covers
_UNIT = 2.0**63


@lru_cache(maxsize=1)
def chances(deviation: float) -> NDArray[np.uint64]:
    """Chance of magnitudes from 1 on, both signs together, in units of 2**-63.

    Args:
        deviation: Of the noise, above 0 and at most `MOST_DEVIATION`.
    """
    ranks = np.arange(1, int(_REACH * deviation) + 3, dtype=np.float64)
    weights = np.exp(-0.5 * np.square(ranks / deviation))
    units = np.rint(weights * (2 * _UNIT / (1 + 2 * weights.sum())))
    found: NDArray[np.uint64] = units.astype(np.uint64)
    return found


def discrete_gaussian(key: bytes, size: int, deviation: float) -> NDArray[np.int64]:
    """So many numbers of a discrete Gaussian, the same for the same key.

    Args:
        key: 32 bytes that draw nothing else.
        size: How many.
        deviation: As of `chances`.
    """
    drawn = np.frombuffer(random_bytes(key, 8 * size), "<u8")
    # Magnitude k is drawn where fewer than tail[k] units are left.
    tails = np.cumsum(chances(deviation)[::-1])
    magnitude = len(tails) - np.searchsorted(tails, drawn >> np.uint64(1), "right")
    negative = (drawn & np.uint64(1)).astype(bool)
    found: NDArray[np.int64] = np.where(negative, -magnitude, magnitude)
    return found


def own_noise(
    secret: bytes, round_id: bytes, size: int, deviation: float
) -> NDArray[np.int64]:
    """A device's part of a round's noise.

    Args:
        secret: The device's, of this round; nobody else ever gets it.
        round_id: The round's.
        size: Numbers of its vector.
        deviation: Of its part, in steps of the ring.
    """
    return discrete_gaussian(noise_key(secret, round_id), size, deviation)
