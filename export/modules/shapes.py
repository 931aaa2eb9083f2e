"""Shapes of a module's inputs, as people give them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from math import prod
from operator import index
from typing import Any, TypeAlias

import numpy as np

from edge_sdk.errors import ExportError

__all__ = ["InputShape", "checked_shape", "one_shape"]

InputShape: TypeAlias = (
    int | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
)

_LARGEST = 2**27  # numbers of an example: 512 MiB, and checks hold 32 of them


def one_shape(given: Any, rows: Any, name: str) -> tuple[int, ...]:
    """The shape that was given, else that of the examples."""
    if given is not None:
        return checked_shape(given)
    if rows is None:
        raise ExportError(
            f"{name}: input_shape is not given",
            remedy="Give the shape of one example without the batch axis, such as "
            "input_shape=(3, 32, 32); of a command --input-shape 3,32,32.",
        )
    return checked_shape(rows[0].shape[1:])


def checked_shape(given: Any) -> tuple[int, ...]:
    """Sizes of one example.

    Raises:
        ExportError: If they are no whole numbers from 1, or too large.
    """
    sizes: tuple[int, ...] | None = None
    with contextlib.suppress(TypeError):
        sizes = (
            (index(given),)
            if isinstance(given, int | np.integer)
            else tuple(index(n) for n in given)
        )
    if sizes is None or isinstance(given, bool | bytes):
        raise ExportError(
            f"input_shape is {given!r}, not a tuple of whole numbers",
            remedy="Give the shape of one example without the batch axis, such as "
            "(16,).",
        )
    if any(size < 1 for size in sizes):
        raise ExportError(
            f"input_shape is {sizes}; every size is at least 1",
            remedy="Leave the batch axis out: batch='dynamic' frees it.",
        )
    if prod(sizes) > _LARGEST:
        raise ExportError(
            f"input_shape is {sizes}: one example is {prod(sizes) / 2**28:.0f} GiB",
            remedy=f"Give an example of at most {_LARGEST / 2**28:g} GiB.",
        )
    return sizes
