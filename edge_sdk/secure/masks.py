"""Masks of vectors: the stream of ChaCha20 (RFC 8439) under a key of its own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from edge_sdk.wire.secure.fixed_point import Ring, dtype_of

__all__ = ["add_pairs", "random_bytes", "stream"]

_NONCE = bytes(16)  # counter and nonce: a key draws one vector


def random_bytes(key: bytes, size: int) -> bytes:
    """So many bytes that nobody without the key can tell from random."""
    cipher = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
    return cipher.update(bytes(size))


def stream(key: bytes, size: int, bits: int) -> Ring:
    """So many numbers of a ring that nobody without the key can tell from random."""
    kind = dtype_of(bits)
    return np.frombuffer(random_bytes(key, size * kind.itemsize), kind)


def add_pairs(
    vector: Ring, device: str, pairs: Iterable[tuple[str, bytes, int]], bits: int
) -> None:
    """Add a device's pairwise masks to a vector, in place.

    Of two devices the one whose name comes first adds, the other takes away.

    Args:
        vector: Of the device.
        device: Its name.
        pairs: (other device, key that both share, how many numbers both send).
        bits: Of the ring.
    """
    for other, key, size in pairs:
        mask = stream(key, size, bits)
        if device < other:
            vector[:size] += mask
        else:
            vector[:size] -= mask
