"""Examples of several inputs out of a data set or a loader, as arrays of each input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from edge_sdk.datasets.rows import array_of, items_of, read
from edge_sdk.errors import DataError, a_type

__all__ = ["arrays_of", "first_of", "is_set"]

_REMEDY = (
    "Let every example be a tuple of the inputs, or a dictionary by the names of "
    "forward's arguments, with the target last or beside them."
)


def is_set(given: object) -> bool:
    """Tell a data set or a loader from arrays."""
    return isinstance(given, torch.utils.data.Dataset | torch.utils.data.DataLoader)


def first_of(given: Any) -> Any:
    """The first example, or batch, of a data set or loader; None of nothing.

    Lists are tuples, as a loader makes lists of an example's tuples.
    """
    if not is_set(given):
        return None
    return next((_form(part) for part in _parts(given, 1)), None)


def arrays_of(given: Any, most: int) -> Any:
    """All examples in the form of one: tuples and dictionaries of arrays (n, ...).

    Args:
        given: A torch ``Dataset`` of examples, or a ``DataLoader`` of batches of them.
        most: How many are taken, spread over a data set that tells its length.

    Raises:
        DataError: If examples are of several forms or shapes.
    """
    batches = isinstance(given, torch.utils.data.DataLoader)
    parts: list[Any] = []
    count = 0
    for part in map(_form, _parts(given, most)):
        parts.append(part)
        count += _length(part) if batches else 1
        if count >= most:
            break
    if not parts:
        raise DataError("calibration holds no examples")
    return _together(parts, "", batches=batches)


def _parts(given: Any, most: int) -> Iterable[Any]:
    loader = isinstance(given, torch.utils.data.DataLoader)
    return read(given if loader else items_of(given, most), "calibration")


def _form(part: Any) -> Any:
    """An example whose lists of tensors are tuples; numbers in a list are an array."""
    if isinstance(part, Mapping):
        return {str(key): _form(one) for key, one in part.items()}
    if isinstance(part, tuple) or (
        isinstance(part, list)
        and any(isinstance(one, torch.Tensor | Mapping | list | tuple) for one in part)
    ):
        return tuple(map(_form, part))
    return part


def _length(batch: Any) -> int:
    """Number of examples of a batch: the length of its first array."""
    while isinstance(batch, Mapping | tuple) and batch:
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return max(1, len(batch)) if hasattr(batch, "__len__") else 1


def _together(parts: list[Any], where: str, *, batches: bool) -> Any:
    """One form of arrays out of many of parts."""
    first, one = parts[0], "batch" if batches else "example"
    for number, part in enumerate(parts):
        if _kind(part) != _kind(first):
            raise DataError(
                f"calibration: {where}{one} {number} is {_said(part)}, {one} 0 is "
                f"{_said(first)}",
                remedy=_REMEDY,
            )
    if isinstance(first, Mapping):
        return {
            key: _together([p[key] for p in parts], f"{key!r} of ", batches=batches)
            for key in first
        }
    if isinstance(first, tuple):
        return tuple(
            _together([p[i] for p in parts], f"value {i} of ", batches=batches)
            for i in range(len(first))
        )
    join = np.concatenate if batches else np.stack
    try:
        return join([array_of(part, f"{where}examples") for part in parts])
    except ValueError as error:
        raise DataError(
            f"calibration: {where}examples has several shapes: {error}",
            remedy="Pad or cut them to one shape.",
        ) from error


def _kind(part: Any) -> object:
    """Names or number of a part's values, which parts of one form share."""
    if isinstance(part, Mapping):
        return frozenset(part)
    return len(part) if isinstance(part, tuple) else None


def _said(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"a dictionary of {', '.join(part) or 'nothing'}"
    return f"a tuple of {len(part)}" if isinstance(part, tuple) else a_type(part)
