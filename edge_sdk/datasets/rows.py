"""`rows_of`: examples in any form that a person has them, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import DataError, EdgeError, a_type
from edge_sdk.tasks.arrays import numbers
from edge_sdk.tasks.task import Examples
from edge_sdk.tasks.user_errors import told

__all__ = ["array_of", "examples_of", "items_of", "read", "rows_of"]

Rows = tuple[NDArray[Any], NDArray[Any] | None]
_FORMS = "a pair (inputs, targets) or a torch Dataset of such pairs"


def examples_of(given: object, what: str) -> Examples:
    """Examples as they are; a pair, a torch data set or a loader as examples.

    Args:
        given: What somebody gave.
        what: Its name, for messages.

    Raises:
        DataError: If it is something else, or has no targets.
    """
    if isinstance(given, Examples):
        return given
    data = torch.utils.data
    if not isinstance(given, tuple | data.Dataset | data.DataLoader):
        raise DataError(
            f"{what} is {a_type(given)}, not edge_sdk.Examples",
            remedy=f"Give Examples(inputs, targets), {_FORMS}.",
        )
    try:
        inputs, targets = rows_of(given, what)
    except DataError as error:
        said = str(error) if what in str(error) else f"{what}: {error}"
        raise DataError(said, remedy=error.help) from error
    if targets is None:
        raise DataError(
            f"{what} has no targets",
            remedy=f"Give Examples(inputs, targets), {_FORMS}.",
        )
    return Examples(inputs, targets)


def rows_of(given: Any, what: str, *, most: int | None = None) -> Rows:
    """Inputs and, where there are any, targets: (n, ...) arrays.

    Args:
        given: `Examples`; an array, tensor, data frame or list of inputs; a tuple
            (inputs, targets); a torch ``Dataset`` of inputs or (input, target); a
            ``DataLoader`` of batches of these.
        what: Its name, for messages.
        most: How many are taken of a data set, spread over it, or of a loader; None
            for all.

    Raises:
        DataError: If it is something else, or holds no example.
    """
    if isinstance(given, Examples):
        return given.inputs, given.targets
    if isinstance(given, torch.utils.data.DataLoader):
        return _joined(read(given, what), what, most, batches=True)
    if isinstance(given, torch.utils.data.Dataset):
        parts = read(items_of(given, most), what)
        return _joined(parts, what, most, batches=False)
    if isinstance(given, tuple):
        if len(given) != 2:
            raise DataError(
                f"{what} is a tuple of {len(given)}",
                remedy="Give inputs, or the pair (inputs, targets).",
            )
        both = Examples(array_of(given[0], "inputs"), array_of(given[1], "targets"))
        return both.inputs, both.targets
    if isinstance(given, str | Path | Mapping | Iterator) or callable(given):
        raise DataError(
            f"{what} is {a_type(given)}, not examples",
            remedy="Give an array of inputs, the pair (inputs, targets), "
            "edge_sdk.Examples, a torch Dataset or DataLoader.",
        )
    inputs = numbers(array_of(given, what), what)
    if not len(inputs):
        raise DataError(f"{what} holds no examples")
    return inputs, None


def items_of(data: Any, most: int | None) -> Iterable[Any]:
    """Examples of a data set, spread over it where it tells its length."""
    if not hasattr(data, "__len__"):
        return islice(iter(data), most)
    step = max(1, len(data) // most) if most else 1
    return (data[i] for i in range(0, len(data), step)[:most])


def read(parts: Iterable[Any], what: str) -> Iterator[Any]:
    """Examples or batches; what a person's own code fails with names its place.

    Raises:
        DataError: If reading one fails.
    """
    found, number = iter(parts), 0
    while True:
        try:
            part = next(found)
        except StopIteration:
            return
        except EdgeError:
            raise
        except Exception as error:
            raise DataError(
                f"{what}: number {number} cannot be read: {told(error)}",
                remedy="Try what gives the examples by itself: next(iter(...)).",
            ) from error
        yield part
        number += 1


def _joined(
    parts: Iterable[Any], what: str, most: int | None, *, batches: bool
) -> Rows:
    """Examples, or batches of them, as one array each."""
    inputs, targets, count = [], [], 0
    for part in parts:
        pair = isinstance(part, list | tuple)
        if pair and not 1 <= len(part) <= 2:
            raise DataError(
                f"{what} gives {len(part)} values per example",
                remedy="Give inputs, or pairs (input, target).",
            )
        inputs.append(array_of(part[0] if pair else part, "inputs"))
        if pair and len(part) == 2:
            targets.append(array_of(part[1], "targets"))
        count += len(inputs[-1]) if batches else 1
        if most is not None and count >= most:
            break
    if not inputs:
        raise DataError(f"{what} holds no examples")
    join = np.concatenate if batches else np.stack
    try:
        found = join(inputs)
        wanted = join(targets) if targets else None
    except ValueError as error:
        raise DataError(
            f"{what} has examples of several shapes: {error}",
            remedy="Pad or cut them to one shape.",
        ) from error
    return numbers(found, "inputs"), None if wanted is None else numbers(
        wanted, "targets"
    )


def array_of(given: Any, what: str) -> NDArray[Any]:
    """A numpy array of a tensor in any place, a data frame, a list or a number."""
    if isinstance(given, torch.Tensor):
        if given.is_meta:
            raise DataError(
                f"{what} have no values: the tensor is on the device meta",
                remedy="Give a tensor with values, on the CPU.",
            )
        given = given.detach().cpu().to_dense()
        plain = given.float() if given.dtype is torch.bfloat16 else given
        found: NDArray[Any] = plain.numpy()
        return found
    if isinstance(given, list | tuple):
        given = [
            array_of(one, what) if isinstance(one, torch.Tensor) else one
            for one in given
        ]
    if callable(frame := getattr(given, "to_numpy", None)):
        given = frame()
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what} do not make an array: {error}",
            remedy="Give examples of one shape; inputs with targets as a tuple of two "
            "arrays, (inputs, targets).",
        ) from error
