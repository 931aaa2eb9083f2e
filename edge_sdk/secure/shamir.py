"""Shamir's secret sharing of byte strings, over GF(256).

The field is AES's (FIPS 197): polynomials modulo x^8 + x^4 + x^3 + x + 1. Each byte of
a secret is the value at 0 of a polynomial of its own; a share is their values at the
share's point, 1 to 255. Shamir, CACM 1979.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError

__all__ = ["combine", "combine_all", "split"]

_MOST = 255


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Powers of the generator 3, twice over, and their logarithms."""
    powers, logs = np.zeros(2 * _MOST, np.uint8), np.zeros(256, np.int16)
    value = 1
    for at in range(_MOST):
        powers[at] = powers[at + _MOST] = value
        logs[value] = at
        value ^= value << 1
        if value > _MOST:
            value ^= 0x11B
    return powers, logs


_POWERS, _LOGS = _tables()


def _times(
    values: NDArray[np.uint8], factors: NDArray[np.integer[Any]]
) -> NDArray[np.uint8]:
    """Products in the field, element by element; shapes broadcast."""
    product = np.asarray(_POWERS[_LOGS[values] + _LOGS[factors]])
    return np.where((values == 0) | (factors == 0), np.uint8(0), product)


def split(secret: bytes, given: Mapping[int, bytes], shares: int) -> list[bytes]:
    """Shares of a secret, of the points 1, 2, ...; one more than are given tell it.

    A polynomial is as well drawn by some of its values as by its coefficients: what is
    given is random, and each of it is known to nobody but its holder.

    Args:
        secret: Any bytes.
        given: Point to share, as long as the secret.
        shares: How many to make.

    Raises:
        LocalProtocolError: If there is no such sharing.
    """
    if not 1 <= len(given) < shares <= _MOST:
        raise LocalProtocolError(
            f"no secret is shared by {len(given) + 1} of {shares}: from 2 up to all of "
            f"at most {_MOST} are possible"
        )
    return combine_all({0: secret, **given}, range(1, shares + 1))


def combine(shares: Mapping[int, bytes], at: int = 0) -> bytes:
    """The bytes whose polynomials go through shares; the secret is at 0.

    Args:
        shares: Point to share; as many as the threshold, alike in length.
        at: The point that is wanted.
    """
    return combine_all(shares, (at,))[0]


def combine_all(shares: Mapping[int, bytes], wanted: Iterable[int]) -> list[bytes]:
    """The bytes whose polynomials go through shares, at each of several points.

    Args:
        shares: Point to share; as many as the threshold, alike in length.
        wanted: The points.
    """
    at = np.fromiter(wanted, np.intp)
    points = np.fromiter(shares, np.intp, len(shares))
    values = np.frombuffer(b"".join(shares.values()), np.uint8)
    # Lagrange's factors, by their logarithms; that of 0, of a point itself, is 0.
    above = _LOGS[at[:, np.newaxis] ^ points]
    below = _LOGS[points[:, np.newaxis] ^ points].sum(axis=1)
    logs = above.sum(axis=1, keepdims=True) - above - below
    factors = _POWERS[logs % _MOST]
    parts = _times(values.reshape(len(points), -1), factors[:, :, np.newaxis])
    found: NDArray[np.uint8] = np.bitwise_xor.reduce(parts, axis=1)
    rows = zip(at.tolist(), found, strict=True)
    return [shares.get(n) or row.tobytes() for n, row in rows]
