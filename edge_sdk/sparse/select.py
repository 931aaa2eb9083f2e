"""Which weights a layer keeps: keyed random orders, whose prefixes nest, and top-k."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import SparsityError
from edge_sdk.sparse.mask import LayerShape, Mask

__all__ = ["draw", "keyed_order", "top_k"]


def keyed_order(layer: LayerShape, seed: int) -> NDArray[np.int64]:
    """All positions of a layer in a random order that every machine derives alike.

    The first `layer.floor` positions touch every output and every input unit, so any
    prefix that long leaves no unit dead; the rest is a random permutation. Only the raw
    Philox stream is used (Salmon et al., SC'11): numpy promises that it never changes,
    which it does not promise of `Generator.permutation`.

    Args:
        layer: Name and shape; the name is part of the key.
        seed: The run's mask seed.

    Returns:
        int64 (numel,): a permutation of the flat positions.
    """
    rank = _raw(layer, seed, b"order", layer.numel)
    cover = _cover(layer, seed)
    kernel = layer.numel // (layer.shape[0] * layer.shape[1])
    # Of the kernel positions of a covering connection, the one that ranks first.
    spots = cover[:, None] * kernel + np.arange(kernel)
    chosen = spots[np.arange(cover.size), rank[spots].argmin(axis=1)]
    order = np.argsort(rank, kind="stable")
    first = np.zeros(layer.numel, np.bool_)
    first[chosen] = True
    return np.concatenate([chosen, order[~first[order]]])


def draw(layers: Sequence[LayerShape], counts: Mapping[str, int], seed: int) -> Mask:
    """The mask that keeps the first ``counts[name]`` positions of each keyed order.

    Masks of one seed with smaller counts are subsets of those with larger ones.

    Raises:
        SparsityError: If a count is missing, negative or above the layer's size.
    """
    patterns: dict[str, NDArray[np.bool_]] = {}
    for layer in layers:
        count = counts.get(layer.name, -1)
        if not 0 <= count <= layer.numel:
            raise SparsityError(
                f"layer {layer.name} cannot keep {count} of {layer.numel} weights"
            )
        pattern = np.zeros(layer.numel, np.bool_)
        if count == layer.numel:
            pattern[:] = True
        else:
            pattern[keyed_order(layer, seed)[:count]] = True
        patterns[layer.name] = pattern.reshape(layer.shape)
    return Mask(patterns)


def top_k(score: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """The pattern of the `count` largest scores; of equals, the earlier position.

    Raises:
        SparsityError: If the count does not fit, or a score is nan.
    """
    if not 0 <= count <= score.size:
        raise SparsityError(f"cannot keep {count} of {score.size} weights")
    if np.isnan(score).any():
        raise SparsityError("a score is not a number")
    pattern = np.zeros(score.size, np.bool_)
    pattern[np.argsort(-score.reshape(-1), kind="stable")[:count]] = True
    return pattern.reshape(score.shape)


def _raw(
    layer: LayerShape, seed: int, purpose: bytes, count: int
) -> NDArray[np.uint64]:
    """`count` raw 64-bit words of the Philox stream keyed by (seed, layer, purpose)."""
    text = f"{seed}\0{layer.name}\0".encode() + purpose
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], "<u8").astype(np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def _cover(layer: LayerShape, seed: int) -> NDArray[np.int64]:
    """Connections, as out * (in / groups) + in, that touch all units: (floor,)."""
    out, inputs = layer.shape[0] // layer.groups, layer.shape[1]
    length = max(out, inputs)
    parts = []
    for group in range(layer.groups):
        words = _raw(layer, seed, b"cover%d" % group, out + inputs)
        rows = np.argsort(words[:out], kind="stable")
        cols = np.argsort(words[out:], kind="stable")
        turn = np.arange(length)
        row = group * out + rows[turn % out]
        parts.append(row * inputs + cols[turn % inputs])
    return np.concatenate(parts)
