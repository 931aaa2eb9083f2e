"""Names of a module's outputs: the keys and fields that hold its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from edge_sdk.infer.output_parts import OutputPart
from edge_sdk.tasks.trial_step import tensors_of

if TYPE_CHECKING:
    from export.rebuild import Source

__all__ = ["named_outputs", "output_parts"]

_Path: TypeAlias = tuple[str | int, ...]
_PLAIN, _FEW = "output", 2


def output_parts(source: Source, data: Path | None = None) -> tuple[OutputPart, ...]:
    """Names and shapes of a module's outputs; none of one tensor without a name.

    No output has the name of an input or of a weight.
    """
    with torch.no_grad():
        outputs = source.model(source.example(_FEW, data))
    inputs = [part.name for part in source.parts] or ["input"]
    names = named_outputs(outputs, {*source.model.state_dict(), *inputs})
    if names == [_PLAIN]:
        return ()
    return tuple(
        OutputPart(name, tuple(tensor.shape[1:]))
        for name, tensor in zip(names, tensors_of(outputs), strict=True)
    )


def named_outputs(outputs: Any, taken: Collection[str] = ()) -> list[str]:
    """A name for each of `tensors_of`, in order, each an identifier and another one.

    Keys of dictionaries and fields of named tuples and dataclasses, joined by ``_``
    where they are nested. What is in a tuple or list has its number:
    ``output_0`` at the top, ``boxes_0`` below the key ``boxes``. What no identifier has
    becomes ``_``; a name that begins with a digit, or none, follows ``output_``. A name
    that is taken gets ``_output``, one that was given before ``_2``.
    """
    paths = _paths(outputs)
    names: list[str] = []
    for path in paths:
        if len(paths) == 1 and not any(isinstance(step, str) for step in path):
            name = _PLAIN
        else:
            name = re.sub(r"\W", "_", "_".join(map(str, path)), flags=re.ASCII)
            if not name.isidentifier():
                name = f"{_PLAIN}_{name}"
        if name in taken:
            name = f"{name}_output"
        stem, count = name, 1
        while name in names or name in taken:
            count += 1
            name = f"{stem}_{count}"
        names.append(name)
    return names


def _paths(outputs: Any) -> list[_Path]:
    """Keys, fields and numbers that lead to each tensor, in `tensors_of`'s order."""
    tensors, found = tensors_of(outputs), list(_walk(outputs, ()))
    if [id(tensor) for _, tensor in found] != [id(tensor) for tensor in tensors]:
        return [(number,) for number in range(len(tensors))]  # a container of its own
    return [path for path, _ in found]


def _walk(held: Any, path: _Path) -> Iterator[tuple[_Path, torch.Tensor]]:
    if isinstance(held, torch.Tensor):
        yield path, held
        return
    steps: Sequence[tuple[str | int, Any]] = ()
    if isinstance(held, Mapping):
        steps = [(str(key), value) for key, value in held.items()]
    elif isinstance(held, tuple) and _fields(held):
        steps = list(zip(_fields(held), held, strict=True))
    elif isinstance(held, tuple | list):
        steps = list(enumerate(held))
    elif is_dataclass(held) and not isinstance(held, type):
        steps = [(f.name, getattr(held, f.name, None)) for f in fields(held)]
    for step, value in steps:
        yield from _walk(value, (*path, step))


def _fields(held: tuple[Any, ...]) -> tuple[str, ...]:
    """Field names of a named tuple, or of what torch's own functions return."""
    kind = type(held)
    names = getattr(kind, "_fields", ()) or getattr(kind, "__match_args__", ())
    return tuple(names) if len(names) == len(held) else ()
