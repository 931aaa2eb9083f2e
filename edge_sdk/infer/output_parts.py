"""Outputs of a model by their names: what a file says of them, and rows taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.json_text import to_json

__all__ = ["OutputPart", "apart_outputs", "listed_outputs", "output_parts_of"]


@dataclass(frozen=True)
class OutputPart:
    """One output of a model that has several, or one under a name.

    Attributes:
        name: The key or field that held it, as in ONNX files.
        shape: Of one example, without the batch axis.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Values of one example."""
        return prod(self.shape)


def apart_outputs(
    rows: NDArray[np.float32], parts: Sequence[OutputPart]
) -> dict[str, NDArray[np.float32]]:
    """Each output by its name, (n, *shape), out of rows of all of them.

    Args:
        rows: (n, values) as `NativeModel.run` and `export.load` give several outputs;
            of one output as it is.
        parts: The model's outputs; none of a model of one without a name.

    Raises:
        DataError: If the rows hold another number of values.
    """
    parts = parts or (OutputPart("output", rows.shape[1:]),)
    sizes = [part.size for part in parts]
    if not rows.ndim or prod(rows.shape[1:]) != sum(sizes):
        raise DataError(
            f"outputs have shape {rows.shape}; {len(parts)} outputs of this model are "
            f"{sum(sizes)} values for each example",
            remedy="Give what the model's own call gave.",
        )
    flat = rows.reshape(len(rows), sum(sizes))
    pieces = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return {
        part.name: piece.reshape(len(rows), *part.shape)
        for part, piece in zip(parts, pieces, strict=True)
    }


def listed_outputs(parts: Sequence[OutputPart]) -> str:
    """Outputs as JSON text, for a file's metadata."""
    return to_json([asdict(part) for part in parts])


def output_parts_of(
    said: Any, shape: tuple[int, ...] | None = None
) -> tuple[OutputPart, ...]:
    """Outputs that a file's metadata list; none if it says nothing of them.

    Args:
        said: The entry.
        shape: One example of all outputs, where the file's program has it.

    Raises:
        ValueError: If they are no outputs, two have one name, or their values are
            others than the program's.
    """
    if said is None:
        return ()
    if not isinstance(said, list) or not said:
        raise ValueError(f"its outputs are {said!r:.60}, no list of them")
    parts = tuple(map(_part, said))
    if len({part.name for part in parts}) < len(parts):
        raise ValueError("two of its outputs have one name")
    values = sum(part.size for part in parts)
    if shape is not None and values != prod(shape):
        raise ValueError(f"its outputs are {values} values, its program's {shape}")
    return parts


def _part(entry: Any) -> OutputPart:
    if isinstance(entry, dict):
        name, shape = entry.get("name"), entry.get("shape")
        if isinstance(name, str) and isinstance(shape, list):
            sizes = [size for size in shape if type(size) is int and size >= 0]
            if len(sizes) == len(shape):
                return OutputPart(name, tuple(sizes))
    raise ValueError(f"{entry!r:.60} is no output")
