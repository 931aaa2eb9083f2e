"""Shamir's secret sharing of byte strings, over GF(256).

The field is AES's (FIPS 197): polynomials modulo x^8 + x^4 + x^3 + x + 1. Each byte of
a secret is the value at 0 of a polynomial of its own; a share is their values at the
share's point, 1 to 255. Shamir, CACM 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError

__all__ = ["combine", "split"]

_MOST = 255


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Powers of the generator 3, twice over, and their logarithms."""
    powers, logs = np.zeros(2 * _MOST, np.uint8), np.zeros(256, np.intp)
    value = 1
    for at in range(_MOST):
        powers[at] = powers[at + _MOST] = value
        logs[value] = at
        value ^= value << 1
        if value > _MOST:
            value ^= 0x11B
    return powers, logs


_POWERS, _LOGS = _tables()


def _times(values: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 0:
        return np.zeros_like(values)
    product = np.asarray(_POWERS[_LOGS[values] + _LOGS[factor]])
    product[values == 0] = 0
    return product


def split(
    secret: bytes, threshold: int, shares: int, random: Callable[[int], bytes]
) -> list[bytes]:
    """Shares of a secret, of the points 1, 2, ...; fewer than `threshold` tell nothing.

    Args:
        secret: Any bytes.
        threshold: Shares that give it back.
        shares: How many to make.
        random: Gives so many bytes that nobody can guess.

    Raises:
        LocalProtocolError: If there is no such sharing.
    """
    if not 2 <= threshold <= shares <= _MOST:
        raise LocalProtocolError(
            f"no secret is shared by {threshold} of {shares}: from 2 up to all of at "
            f"most {_MOST} are possible"
        )
    size = len(secret)
    drawn = np.frombuffer(random(size * (threshold - 1)), np.uint8)
    higher = drawn.reshape(threshold - 1, size)
    first = np.frombuffer(secret, np.uint8)
    made = []
    for point in range(1, shares + 1):
        value = np.zeros(size, np.uint8)
        for coefficients in higher[::-1]:  # Horner's rule
            value = _times(value ^ coefficients, point)
        made.append((value ^ first).tobytes())
    return made


def combine(shares: Mapping[int, bytes], at: int = 0) -> bytes:
    """The bytes whose polynomials go through shares; the secret is at 0.

    Args:
        shares: Point to share; as many as the threshold, alike in length.
        at: The point that is wanted.
    """
    total = np.zeros(len(next(iter(shares.values()))), np.uint8)
    for point, share in shares.items():
        log = 0
        for other in shares:
            if other == point:
                continue
            if other == at:
                break
            log += _LOGS[at ^ other] - _LOGS[point ^ other]
        else:
            factor = int(_POWERS[log % _MOST])
            total ^= _times(np.frombuffer(share, np.uint8), factor)
    return total.tobytes()
