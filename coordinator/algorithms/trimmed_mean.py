"""The trimmed mean: each weight averaged without its largest and smallest changes.

Yin et al., "Byzantine-Robust Distributed Learning" (ICML 2018), made aware of coverage:
of the c devices that hold a weight, ceil(trim * c) are left out at either end, as long
as one is left: of three or more devices somebody always is. Devices
count the same however many examples they say they have: a weight that a liar chooses
would undo the trimming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.dense import as_entry
from coordinator.algorithms.mean import Contribution, Coverage, Model
from edge_sdk.errors import RunError

__all__ = ["trimmed_mean"]

BLOCK_BYTES = 64 << 20  # of changes held at a time; more devices take more passes


def trimmed_mean(
    base: Model,
    contributions: Iterable[Contribution],
    *,
    trim: float,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Model, Coverage]:
    """The next model, and how many devices held each weight of the top mask.

    Args:
        base: What every contribution is a change to.
        contributions: In any order; read once per block, so not an iterator.
        trim: Share left out at either end, in [0, 0.5).
        block_bytes: Memory for the changes; it does not change the result.

    Raises:
        RunError: If there is no contribution.
    """
    if isinstance(contributions, Iterator):
        contributions = list(contributions)
    count = sum(1 for _ in contributions)
    if not count:
        raise RunError("a round without updates cannot be aggregated")
    size = sum(v.size for v in base.masked.values())
    travelling = base.travelling
    total = size + sum(a.size for a in travelling.values())
    step, held = np.zeros(total, np.float64), np.zeros(total, np.int32)
    width = max(1, block_bytes // (4 * count))
    for start in range(0, total, width):
        block = slice(start, min(start + width, total))
        rows = np.empty((count, block.stop - start), np.float32)
        for row, one in zip(rows, contributions, strict=True):
            row[:] = _flat(base, one)[block]
        step[block], held[block] = _trimmed(rows, trim)
    masked, coverage, at = {}, {}, 0
    for name, value in base.masked.items():
        part = slice(at, at + value.size)
        masked[name] = (value + step[part]).astype(np.float32)
        coverage[name] = held[part]
        at += value.size
    dense = dict(base.dense)
    for name, array in travelling.items():
        change = step[at : at + array.size].reshape(array.shape)
        moved = array.astype(np.float64) + change
        if name.endswith("running_var"):  # rounding may leave it just below 0
            moved = np.maximum(moved, 0.0)
        dense[name] = as_entry(moved, array, moved=bool(change.any()))
        at += array.size
    return replace(base, masked=masked, dense=dense, state={}), coverage


def _flat(base: Model, one: Contribution) -> NDArray[np.float32]:
    """A change on every weight of the top mask, NaN where the device holds none."""
    parts: list[NDArray[np.float32]] = []
    for name, value in base.masked.items():
        row = np.full(value.shape, np.nan, np.float32)
        row[one.mask.within(base.mask, name)] = one.change.masked[name]
        parts.append(row)
    for name in base.travelling:
        entry = one.change.dense[name].astype(np.float32)
        if name in one.idle:
            entry[one.idle[name]] = np.nan
        parts.append(entry.reshape(-1))
    return np.concatenate(parts)


def _trimmed(
    rows: NDArray[np.float32], trim: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Mean of each column without its ends, 0 where nobody held it; and its count."""
    held = np.count_nonzero(~np.isnan(rows), axis=0)
    rows.sort(axis=0)  # NaN goes last
    out = np.ceil(trim * held - 1e-9).astype(np.int64)  # 0.1 * 30 is above 3
    out = np.minimum(out, np.maximum(held - 1, 0) // 2)
    place = np.arange(len(rows))[:, None]
    kept = (place >= out) & (place < held - out)
    total = np.where(kept, rows, 0).sum(axis=0, dtype=np.float64)
    return total / np.maximum(held - 2 * out, 1), held.astype(np.int32)
