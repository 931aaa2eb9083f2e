"""Several inputs of a model: checked, as one row of float32, and apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.json_text import to_json

__all__ = [
    "InputPart",
    "Several",
    "apart_inputs",
    "checked_inputs",
    "exact_inputs",
    "joined_inputs",
    "listed",
    "parts_of",
]

Several: TypeAlias = Sequence[Any] | Mapping[str, Any]

_DTYPES = ("float32", "int64", "bool")
_MOST_WHOLE = 2**24  # above, float32 skips whole numbers


@dataclass(frozen=True)
class InputPart:
    """One input of several.

    Attributes:
        name: That of the argument of the model's forward.
        shape: One example, without the batch axis.
        dtype: What the model takes: "float32", "int64" or "bool".
        below: Whole numbers of made-up examples lie below it; no file has it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2

    @property
    def size(self) -> int:
        """Values of one example."""
        return prod(self.shape)


def joined_inputs(
    given: Several, parts: Sequence[InputPart], what: str
) -> NDArray[np.float32]:
    """Several inputs as native files take them, a row an example: float32 (n, values).

    Args:
        given: As `checked_inputs` takes them.
        parts: The model's inputs; none of a model of one.
        what: Of what they are inputs, for messages.

    Raises:
        DataError: As `checked_inputs`; or if whole numbers are none in float32.
    """
    arrays = exact_inputs(given, parts, what)
    rows = [one.reshape(len(one), -1).astype(np.float32) for one in arrays]
    return np.concatenate(rows, axis=1)


def exact_inputs(
    given: Several, parts: Sequence[InputPart], what: str
) -> list[NDArray[Any]]:
    """Several inputs as `checked_inputs` gives them, whose numbers float32 holds.

    Raises:
        DataError: As `checked_inputs`; or if a whole number is beyond 2^24.
    """
    arrays = checked_inputs(given, parts, what)
    for array, part in zip(arrays, parts, strict=True):
        _check_exact(array, part, what)
    return arrays


def apart_inputs(
    rows: NDArray[Any], parts: Sequence[InputPart]
) -> dict[str, NDArray[Any]]:
    """Each input by its name, (n, *shape) of its dtype, out of rows of all of them."""
    ends = np.cumsum([part.size for part in parts])[:-1]
    return {
        part.name: np.ascontiguousarray(piece)
        .reshape(len(rows), *part.shape)
        .astype(part.dtype)
        for part, piece in zip(parts, np.split(rows, ends, axis=1), strict=True)
    }


def checked_inputs(
    given: Several, parts: Sequence[InputPart], what: str
) -> list[NDArray[Any]]:
    """Several inputs in order, each (n, *shape) of its dtype.

    Args:
        given: An array (n, *shape) for each input, in their order or by their names.
        parts: The model's inputs; none of a model of one.
        what: Of what they are inputs, for messages.

    Raises:
        DataError: If they are others than the model's, or not equally many examples;
            names the input.
    """
    if not parts:
        raise DataError(
            f"{what} has one input; {len(given)} were given",
            remedy="Give one array of examples; a list becomes one by np.asarray.",
        )
    names = [part.name for part in parts]
    if isinstance(given, Mapping):
        wrong = [*(n for n in names if n not in given), *(given.keys() - {*names})]
        arrays = [given[n] for n in names if n in given]
    else:
        wrong, arrays = [], list(given)
    if wrong or len(arrays) != len(parts):
        said = ", ".join(map(str, given)) if isinstance(given, Mapping) else len(arrays)
        raise DataError(
            f"{what} has the inputs {', '.join(names)}; given were {said}",
            remedy="Give an array for each: a tuple in this order, or a dictionary by "
            "these names.",
        )
    found = [_fitting(one, part, what) for one, part in zip(arrays, parts, strict=True)]
    counts = [len(one) for one in found]
    if len(set(counts)) > 1 or not counts[0]:
        told = ", ".join(f"{n} {count}" for n, count in zip(names, counts, strict=True))
        raise DataError(
            f"{what}: inputs have these numbers of examples: {told}",
            remedy="Give each input the same number of examples, at least one.",
        )
    return found


def _fitting(given: Any, part: InputPart, what: str) -> NDArray[Any]:
    """One input in the dtype that the model takes."""
    array = np.asarray(given)
    if array.ndim == 0 or array.shape[1:] != part.shape:
        raise DataError(
            f"{what}: input {part.name!r} has shape {array.shape}, not "
            f"({', '.join(map(str, ('n', *part.shape)))})",
            remedy="Give a batch of prepared inputs; one example is batch[:1].",
        )
    kinds = "fiub" if part.dtype == "float32" else "iub"
    if array.dtype.kind not in kinds:
        raise DataError(
            f"{what}: input {part.name!r} is {array.dtype}, the model takes "
            f"{part.dtype}",
            remedy=f"Give an array of {part.dtype}.",
        )
    return array.astype(part.dtype, copy=False)


def _check_exact(array: NDArray[Any], part: InputPart, what: str) -> None:
    if part.dtype != "int64" or not array.size:
        return
    far = max(abs(int(array.min())), abs(int(array.max())))
    if far > _MOST_WHOLE:
        raise DataError(
            f"{what}: input {part.name!r} holds {far}; float32, in which native files "
            f"compute and examples are compared, is exact up to {_MOST_WHOLE}",
            remedy="Give numbers below it, or split them into two inputs.",
        )


def listed(parts: Sequence[InputPart]) -> str:
    """The inputs as a file's metadata has them: JSON."""
    made = [asdict(part) for part in parts]
    for entry in made:
        del entry["below"]
    return to_json(made)


def parts_of(found: object, shape: Sequence[int]) -> tuple[InputPart, ...]:
    """The inputs that a file's metadata lists; none of a file of one input.

    Args:
        found: The entry, or None.
        shape: Of what the file takes; the inputs must fill it.

    Raises:
        ValueError: If the entry is no such list.
    """
    if found is None:
        return ()
    try:
        parts = tuple(_part(**entry) for entry in found)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ValueError(f"its inputs are {found!r:.60}: {error}") from error
    names = {part.name for part in parts}
    if (sum(part.size for part in parts),) != tuple(shape) or len(names) < len(parts):
        raise ValueError(f"its inputs {found!r:.60} do not fill the shape {shape}")
    return parts


def _part(*, name: object, shape: object, dtype: object) -> InputPart:
    if not isinstance(name, str) or dtype not in _DTYPES or not isinstance(shape, list):
        raise ValueError(f"no input: {name!r:.20}, {shape!r:.20}, {dtype!r:.20}")
    if any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"no shape: {shape!r:.40}")
    return InputPart(name, tuple(shape), str(dtype))
