"""Arrays of examples: which are numbers, how torch takes them, their extremes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError, a_type

__all__ = [
    "blocks",
    "check_present",
    "extremes",
    "group_numbers",
    "map_of",
    "native",
    "not_finite",
    "numbers",
]

_BLOCK = 1 << 24  # bytes looked at together: a memory map is never held as a whole
_REMEDY = "Save numbers: booleans, integers or floats of at most 64 bits."


def numbers(given: Any, what: str) -> NDArray[np.generic]:
    """An array of numbers from what was given, one example per row.

    Byte order, strides and whether it can be written do not matter: a batch is copied
    before torch sees it, see `native`. A memory map stays one.

    Args:
        given: An array, a list, or what numpy makes an array of, such as a CPU tensor.
        what: Its name, for the message.

    Raises:
        DataError: If it is no array of numbers; says what it is instead.
    """
    if isinstance(given, (tuple, dict)):
        raise DataError(
            f"{what} are {a_type(given)}, not one array",
            remedy="Put everything into one array and take it apart in the model or "
            "the loss.",
        )
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        raise DataError(f"{what} are a masked array with entries that are not there")
    try:
        array: NDArray[np.generic] = (
            given if isinstance(given, np.ndarray) else np.asarray(given)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} do not make an array: {error}", remedy=_REMEDY
        ) from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        names = "np.unique(names, return_inverse=True) makes numbers of class names."
        remedy = names if array.dtype.kind in "US" else _REMEDY
        raise DataError(f"{what} are {_kind(array.dtype)}", remedy=remedy)
    if not array.ndim:
        raise DataError(f"{what} are a single number, not one row per example")
    return array


def group_numbers(given: Any, count: int) -> NDArray[np.generic]:
    """(count,) whole numbers that say which group each example is of.

    Raises:
        DataError: If they are anything else.
    """
    groups = numbers(given, "groups")
    if groups.shape != (count,) or groups.dtype.kind not in "biu":
        raise DataError(
            f"groups are {groups.dtype} of shape {groups.shape} for {count} inputs",
            remedy="Give one whole number per example, such as its recording.",
        )
    return groups


def map_of(array: NDArray[np.generic]) -> np.memmap[Any, Any] | None:
    """The memory map that an array is, or is a view of; None for one in memory."""
    found: Any = array
    while isinstance(found, np.ndarray):
        if isinstance(found, np.memmap) and isinstance(found.base, mmap.mmap):
            return found
        found = found.base
    return None


def check_present(*arrays: NDArray[np.generic]) -> None:
    """Refuses memory maps of files that were cut meanwhile; a microsecond each.

    The system kills a process that reads a mapped page beyond a file's end.

    Raises:
        DataError: Names the file, and how to replace one in use.
    """
    for array in arrays:
        whole = map_of(array)
        if whole is None or not isinstance(whole.base, mmap.mmap):
            continue
        end = whole.offset - whole.offset % mmap.ALLOCATIONGRANULARITY + len(whole.base)
        if (left := whole.base.size()) < end:
            raise DataError(
                f"{whole.filename} was cut to {left} bytes while it was mapped",
                remedy="Write a file of examples under another name, then rename it: "
                "what is mapped stays whole.",
            )


def native(array: NDArray[np.generic]) -> NDArray[Any]:
    """A copy that torch takes: this machine's byte order, contiguous, its own memory.

    uint16, uint32 and uint64, for which torch has hardly an operation, become int64.

    Raises:
        DataError: If a uint64 is above what int64 holds.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind != "u" or size == 1:
        return np.array(array, array.dtype.newbyteorder("="), order="C")
    if size == 8 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{int(array.max())} is above what a 64-bit integer holds")
    return np.array(array, np.int64, order="C")


def blocks(array: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """(first example, some examples), one after the other, in bounded memory."""
    row = max(1, array[:1].nbytes)
    step = max(1, _BLOCK // row)
    for start in range(0, len(array), step):
        check_present(array)
        yield start, array[start : start + step]


def not_finite(array: NDArray[np.generic]) -> NDArray[np.int64]:
    """Positions of examples with a value that is not finite, ascending."""
    if array.dtype.kind != "f":
        return np.zeros(0, np.int64)
    found = [
        start + np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=1))
        for start, part in blocks(array)
    ]
    return np.concatenate(found).astype(np.int64)


def extremes(array: NDArray[np.generic]) -> tuple[int, int, int, int]:
    """Of integers: the least and the largest value, and an example that has each.

    Returns:
        (least, largest, position of the least, position of the largest).

    Example:
        >>> extremes(np.array([3, 1, 7]))
        (1, 7, 1, 2)
    """
    low = high = None
    low_at = high_at = 0
    for start, part in blocks(array):
        rows = part.reshape(len(part), -1)
        if not rows.shape[1]:
            continue
        least, largest = rows.min(axis=1), rows.max(axis=1)
        at, top = int(least.argmin()), int(largest.argmax())
        if low is None or int(least[at]) < low:
            low, low_at = int(least[at]), start + at
        if high is None or int(largest[top]) > high:
            high, high_at = int(largest[top]), start + top
    return low or 0, high or 0, low_at, high_at


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.names:
        return f"records with the fields {', '.join(dtype.names)}"
    names = {"O": "Python objects", "U": "text", "S": "bytes", "M": "dates"}
    names |= {"m": "time spans", "c": "complex numbers"}
    return f"{names.get(dtype.kind, 'values')} (dtype {dtype}), not numbers"
