"""Places of an update's values in the vector of a secure round: ring after ring.

The values of the family's smallest mask come first, then what each larger one adds. A
dense entry with a value for each unit is laid out as weights are: what belongs to units
that a mask cuts is in the ring of the smallest mask that keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.sparse import Mask
from edge_sdk.wire.values import Values

__all__ = ["UnitsKept", "flat", "unflat"]

# Dense entry -> how many of its first units each mask keeps, smallest first; an entry
# that is absent is whole in all of them.
UnitsKept: TypeAlias = Mapping[str, Sequence[int]]


def _mask_levels(masks: Sequence[Mask], own: Mask) -> dict[str, NDArray[np.intp]]:
    """Of each kept value, the index of the smallest of the masks that holds it."""
    found = {name: np.full(own.counts[name], len(masks), np.intp) for name in own}
    for level in reversed(range(len(masks))):
        for name in own:
            found[name][masks[level].within(own, name)] = level
    return found


def _unit_levels(
    name: str, shape: Sequence[int], units: UnitsKept, rings: int
) -> NDArray[np.intp]:
    """Of each value of a dense entry, the index of the smallest mask that has it.

    Values of units that all masks cut have the number of masks.

    Raises:
        RemoteProtocolError: If the counts are no units of the entry.
    """
    size = int(np.prod(shape))
    if name not in units:
        return np.zeros(size, np.intp)
    kept, rows = list(units[name])[:rings], shape[0] if shape else 0
    fits = len(kept) == rings and kept == sorted(kept) and kept[-1] <= rows
    if not (fits and rows):
        raise RemoteProtocolError(
            f"entry {name} has {rows} units, and the {rings} sizes of the round are "
            f"said to keep {kept} of them"
        )
    of_row = np.searchsorted(kept, np.arange(rows), side="right")
    return np.repeat(of_row, size // rows)


def flat(
    values: Values,
    masks: Sequence[Mask],
    own: Mask,
    dense: Sequence[str],
    units: UnitsKept,
) -> NDArray[np.float64]:
    """The values of an update in the vector's order.

    Args:
        values: Of an update on `own`.
        masks: The smaller masks of the family, smallest first.
        own: What the update stands on.
        dense: Names of the dense entries that are summed, sorted.
        units: What of them each mask keeps; `own` is the last.

    Raises:
        RemoteProtocolError: If `units` do not fit the entries.
    """
    level, rings = _mask_levels(masks, own), len(masks) + 1
    entries = {n: values.dense[n] for n in dense}
    unit = {n: _unit_levels(n, a.shape, units, rings) for n, a in entries.items()}
    parts: list[NDArray[np.float64]] = []
    for at in range(rings):
        parts += [
            values.masked[name].astype(np.float64)[level[name] == at] for name in own
        ]
        parts += [
            array.astype(np.float64).reshape(-1)[unit[name] == at]
            for name, array in entries.items()
        ]
    return np.concatenate(parts)


def unflat(
    vector: NDArray[np.float64],
    masks: Sequence[Mask],
    own: Mask,
    dense: Mapping[str, NDArray[Any]],
    units: UnitsKept,
) -> Values:
    """The update whose values are in a vector; what `flat` has laid out.

    Values of units that are cut are 0.

    Args:
        vector: As long as the largest mask's.
        masks: The smaller masks of the family, smallest first.
        own: The largest mask.
        dense: The entries that are summed; their shapes count.
        units: What of them each mask keeps; those of larger masks than `own` are left.

    Raises:
        RemoteProtocolError: If `units` do not fit the entries.
    """
    level, rings = _mask_levels(masks, own), len(masks) + 1
    masked = {name: np.zeros(own.counts[name], np.float32) for name in own}
    found = {n: np.zeros(dense[n].size, np.float32) for n in sorted(dense)}
    unit = {n: _unit_levels(n, dense[n].shape, units, rings) for n in found}
    start = 0
    for at in range(rings):
        for into, levels in ((masked, level), (found, unit)):
            for name, values in into.items():
                here = levels[name] == at
                stop = start + int(np.count_nonzero(here))
                values[here] = vector[start:stop]
                start = stop
    shaped = {n: values.reshape(dense[n].shape) for n, values in found.items()}
    return Values(own.digest, masked, shaped)
