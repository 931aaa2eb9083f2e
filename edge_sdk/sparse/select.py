"""Choice of the weights that a layer keeps: prefixes of a keyed order, and top-k.

All positions of a layer have a random order that every machine derives alike. Its
first `LayerShape.floor` positions touch every output and input unit, so any prefix that
long leaves no unit dead; the rest go by rank, the raw words of a Philox stream (Salmon
et al., SC'11) keyed by seed and layer name. numpy promises that stream for ever, which
it does not promise of `Generator.permutation`.

Only prefixes are ever wanted, and the order itself would take 24 bytes for each weight:
more than sparse training of a large layer. So the words are drawn twice, a block at a
time: once to find the rank at which the prefix ends, once to mark what lies below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import SparsityError
from edge_sdk.sparse.mask import LayerShape, Mask
from edge_sdk.sparse.units import Boxes, in_box

__all__ = ["draw", "top_k"]

BLOCK = 1 << 18  # words at once: 2 MiB, which stay in a small board's cache or nearly
BIN_BITS = 16  # a rank's first bits; about a hundred of FEMNIST's 6.4 M share a bin


def draw(
    layers: Sequence[LayerShape],
    counts: Mapping[str, int],
    seed: int,
    boxes: Boxes = MappingProxyType({}),
) -> Mask:
    """The mask that keeps the first ``counts[name]`` positions of each keyed order.

    With a box the order is that of the positions in it. Masks of one seed with smaller
    counts and boxes are subsets of those with larger ones, as long as a count is at
    most what the larger mask keeps inside the smaller box.

    Raises:
        SparsityError: If a count is missing, negative or above the layer's size, or a
            box does not fit its layer.
    """
    patterns: dict[str, NDArray[np.bool_]] = {}
    for layer in layers:
        count, inside = counts.get(layer.name, -1), in_box(layer, boxes)
        size = layer.numel if inside is None else int(inside.sum())
        if not 0 <= count <= size:
            raise SparsityError(
                f"layer {layer.name} cannot keep {count} of {size} weights"
            )
        if count == size:
            patterns[layer.name] = np.ones(layer.shape, np.bool_)
            if inside is not None:
                patterns[layer.name] = inside
            continue
        flat = None if inside is None else inside.reshape(-1)
        patterns[layer.name] = _prefix(layer, seed, count, flat).reshape(layer.shape)
    return Mask(patterns)


def top_k(score: NDArray[np.floating], count: int, key: str) -> NDArray[np.bool_]:
    """The pattern of the `count` largest scores; equals by a keyed random order.

    Equal scores are common where nothing has been trained yet (weights that were just
    regrown are 0), and by position they would all lie at a layer's beginning. With the
    same scores and key the pattern of a smaller count is within that of a larger one.

    Args:
        score: Of any shape.
        count: How many to keep.
        key: Orders equals: alike on every machine, otherwise with another key. Name the
            layer in it, and what the choice belongs to.

    Raises:
        SparsityError: If the count does not fit, or a score is nan.
    """
    if not 0 <= count <= score.size:
        raise SparsityError(f"cannot keep {count} of {score.size} weights")
    if np.isnan(score).any():
        raise SparsityError("a score is not a number")
    flat = score.reshape(-1)
    if count == 0:
        return np.zeros(score.shape, np.bool_)
    least = np.partition(flat, flat.size - count)[flat.size - count]
    pattern: NDArray[np.bool_] = flat > least
    equals = np.flatnonzero(flat == least)
    # Drawn for all equals, not for those still wanted: so smaller counts nest.
    order = np.argsort(_keyed(key.encode()).random_raw(equals.size), kind="stable")
    pattern[equals[order[: count - np.count_nonzero(pattern)]]] = True
    return pattern.reshape(score.shape)


def _prefix(
    layer: LayerShape, seed: int, count: int, inside: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """The first `count` positions of the layer's order, of those inside: (numel,)."""
    pattern = np.zeros(layer.numel, np.bool_)
    cover, ranks, bins = _survey(layer, seed, inside)
    if inside is not None:
        held = inside[cover]
        cover, ranks = cover[held], ranks[held]
    pattern[cover[:count]] = True
    more = count - cover.size
    if more <= 0:
        return pattern
    bins -= np.bincount(_bin(ranks), minlength=bins.size)
    last = int(np.searchsorted(np.cumsum(bins), more))
    more -= int(bins[:last].sum())
    places, edge = [], []
    for start, words in _blocks(layer, seed):
        part = pattern[start : start + words.size]
        at, free = _bin(words), ~part
        if inside is not None:
            free &= inside[start : start + words.size]
        spots = np.flatnonzero((at == last) & free)
        places.append(start + spots)
        edge.append(words[spots])
        part |= (at < last) & free
    # The bin at the edge is cut by rank; of equals, the earlier position.
    order = np.argsort(np.concatenate(edge), kind="stable")
    pattern[np.concatenate(places)[order[:more]]] = True
    return pattern


def _survey(
    layer: LayerShape, seed: int, inside: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """The covering positions, their ranks, and how many inside fall into each bin."""
    cover = _cover(layer, seed)
    kernel = layer.numel // (layer.shape[0] * layer.shape[1])
    # Of the kernel positions of a covering connection, the one that ranks first.
    spots = cover[:, None] * kernel + np.arange(kernel)
    flat = spots.reshape(-1)
    order = np.argsort(flat)
    ranks = np.empty(flat.size, np.uint64)
    bins = np.zeros(1 << BIN_BITS, np.int64)
    for start, words in _blocks(layer, seed):
        counted = words
        if inside is not None:
            counted = words[inside[start : start + words.size]]
        bins += np.bincount(_bin(counted), minlength=bins.size)
        first, end = np.searchsorted(flat[order], [start, start + words.size])
        here = order[first:end]
        ranks[here] = words[flat[here] - start]
    best = ranks.reshape(spots.shape).argmin(axis=1)
    row = np.arange(cover.size)
    return spots[row, best], ranks.reshape(spots.shape)[row, best], bins


def _bin(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.asarray(words >> np.uint64(64 - BIN_BITS), np.int64)


def _blocks(layer: LayerShape, seed: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(first position, ranks) of the layer, a block at a time."""
    stream = _stream(layer, seed, b"order")
    for start in range(0, layer.numel, BLOCK):
        yield start, stream.random_raw(min(BLOCK, layer.numel - start))


def _stream(layer: LayerShape, seed: int, purpose: bytes) -> np.random.Philox:
    """The Philox stream keyed by (seed, layer, purpose)."""
    return _keyed(f"{seed}\0{layer.name}\0".encode() + purpose)


def _keyed(text: bytes) -> np.random.Philox:
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], "<u8").astype(np.uint64)
    return np.random.Philox(key=key)


def _cover(layer: LayerShape, seed: int) -> NDArray[np.int64]:
    """Connections, as out * (in / groups) + in, that touch all units: (floor,)."""
    out, inputs = layer.shape[0] // layer.groups, layer.shape[1]
    length = max(out, inputs)
    parts = []
    for group in range(layer.groups):
        words = _stream(layer, seed, b"cover%d" % group).random_raw(out + inputs)
        rows = np.argsort(words[:out], kind="stable")
        cols = np.argsort(words[out:], kind="stable")
        turn = np.arange(length)
        row = group * out + rows[turn % out]
        parts.append(row * inputs + cols[turn % inputs])
    return np.concatenate(parts)
