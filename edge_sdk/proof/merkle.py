"""Merkle trees over byte strings, as RFC 9162 (Certificate Transparency) has them.

Leaves and inner nodes are hashed with different first bytes, so that neither can be
taken for the other. A tree of n leaves splits at the largest power of two below n.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

__all__ = ["leaf_hash", "path_of", "root_from", "root_of"]


def leaf_hash(leaf: bytes) -> bytes:
    """The SHA-256 of one leaf, 32 bytes."""
    return sha256(b"\x00" + leaf).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree, 32 bytes; of no leaves it is the SHA-256 of nothing.

    Example:
        >>> root_of([]).hex()[:8], root_of([b""]).hex()[:8]
        ('e3b0c442', '6e340b9c')
    """
    return _root([leaf_hash(leaf) for leaf in leaves])


def path_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from one leaf to the root, the nearest first.

    Raises:
        IndexError: If there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    return _path([leaf_hash(leaf) for leaf in leaves], index)


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf and its path lead to (RFC 9162, section 2.1.3.2).

    Args:
        leaf: Its bytes.
        index: Its place.
        size: Number of leaves of the tree.
        path: As `path_of` gives it.

    Raises:
        ValueError: If the path has another length than such a tree has.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of {size}")
    place, last, found = index, size - 1, leaf_hash(leaf)
    for beside in path:
        if last == 0:
            raise ValueError("the path is too long")
        if place & 1 or place == last:
            found = _node(beside, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, beside)
        place, last = place >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """The largest power of two below a size above 1."""
    return 1 << (size - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    at = _split(len(hashes))
    return _node(_root(hashes[:at]), _root(hashes[at:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    at = _split(len(hashes))
    if index < at:
        return [*_path(hashes[:at], index), _root(hashes[at:])]
    return [*_path(hashes[at:], index - at), _root(hashes[:at])]
