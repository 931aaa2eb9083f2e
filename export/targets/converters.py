"""Modules as other runtimes' converters take them: tensors in and out, by names."""

from __future__ import annotations

import contextlib
import io
import json
import keyword
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.infer.input_parts import InputPart, apart_inputs
from edge_sdk.infer.output_parts import output_parts_of
from export.checks.outputs import Tensors, joined
from export.onnx_graph import input_names
from export.targets import Material

__all__ = ["Converted", "converted_of", "each_example", "quiet", "reading", "rows_of"]


@dataclass(frozen=True, eq=False)
class Converted:
    """Module, examples and names that a converter is given.

    Attributes:
        module: Takes the inputs in order, gives a tuple of tensors.
        examples: Of each input one, (1, ...).
        inputs: Their names.
        outputs: Names of the tensors.
    """

    module: nn.Module
    examples: tuple[torch.Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def converted_of(material: Material, name: str) -> Converted:
    """A model for converters that take a batch of 1.

    Args:
        material: What to export.
        name: Of the format, for messages.

    Raises:
        ExportError: If the batch was asked to be free.
    """
    first = material.dense.graph.input[0].type.tensor_type.shape.dim[0]
    if first.dim_value != 1:
        raise ExportError(
            f"format {name} takes a fixed batch", remedy="Leave out --batch dynamic."
        )
    source = material.source
    row = source.example(1)
    parts = output_parts_of(json.loads(material.facts.get("outputs", "null")))
    outputs = [part.name for part in parts] or ["output"]
    if not source.parts:
        return Converted(Tensors(source.model), (row,), ("input",), tuple(outputs))
    apart = apart_inputs(row.numpy(), source.parts)
    return Converted(
        Tensors(source.model),
        tuple(map(torch.from_numpy, apart.values())),
        _identifiers(input_names(source), outputs),
        tuple(outputs),
    )


def _identifiers(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Names of arguments, or of a dictionary's keys, as runtimes take them."""
    found: list[str] = []
    for given in names:
        name = re.sub(r"\W|^(?=\d)", "_", given, flags=re.ASCII) or "_"
        if keyword.iskeyword(name) or name == "self":
            name += "_"
        while name in found or name in taken:
            name += "_input"
        found.append(name)
    return tuple(found)


def each_example(
    batch: NDArray[Any], parts: Sequence[InputPart], takes: Sequence[Sequence[int]]
) -> Iterator[list[NDArray[Any]]]:
    """Inputs of each example of a batch, (1, ...) each, as a file takes them.

    Args:
        batch: (n, ...); of a model of several inputs rows of all, (n, values).
        parts: The inputs of a model of several.
        takes: Shapes of the file's inputs: a file of before takes the row.
    """
    given = [batch]
    if [tuple(shape) for shape in takes] == [(1, *part.shape) for part in parts]:
        given = list(apart_inputs(batch, parts).values())
    for at in range(len(batch)):
        yield [one[at : at + 1] for one in given]


def rows_of(outputs: Sequence[Sequence[torch.Tensor]]) -> NDArray[np.float32]:
    """Outputs of each example, (1, ...) each, as `Source.predict` gives them."""
    rows = [joined([one.float() for one in example]) for example in outputs]
    return np.concatenate(rows).astype(np.float32, copy=False)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Names a format's errors about a file that its library does not read."""
    try:
        with quiet():
            yield
    except (EdgeError, ImportError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:400]
        raise ExportError(
            f"{name} does not run the file: {type(error).__name__}: {said}",
            remedy="Build it again; inputs are as the model took them then.",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back what a converter prints and warns."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
