"""Shamir's secret sharing of byte strings, over GF(256).

The field is AES's (FIPS 197): polynomials modulo x^8 + x^4 + x^3 + x + 1. Each byte of
a secret is the value at 0 of a polynomial of its own; a share is their values at the
share's point, 1 to 255. Shamir, CACM 1979.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    fixed = {0: secret, **given}
    return [combine(fixed, point) for point in range(1, shares + 1)]


def combine(shares: Mapping[int, bytes], at: int = 0) -> bytes:
    """The bytes whose polynomials go through shares; the secret is at 0.

    Args:
        shares: Point to share; as many as the threshold, alike in length.
        at: The point that is wanted.
    """
    if at in shares:
        return shares[at]
    points = np.fromiter(shares, np.intp, len(shares))
    values = np.frombuffer(b"".join(shares.values()), np.uint8)
    # Lagrange's factors, by their logarithms; that of 0, of a point itself, is 0.
    above = _LOGS[at ^ points]
    below = _LOGS[points[:, np.newaxis] ^ points].sum(axis=1)
    factors = _POWERS[(above.sum() - above - below) % _MOST]
    parts = _times(values.reshape(len(points), -1), factors[:, np.newaxis])
    found: NDArray[np.uint8] = np.bitwise_xor.reduce(parts, axis=0)
    return found.tobytes()
