"""Inputs given to an export: arrays of any kind, in the dtype that the model takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edge_sdk.datasets.rows import rows_of
from edge_sdk.errors import DataError, TaskError
from edge_sdk.tasks.arrays import native, not_finite
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.task import Examples, Task
from export.rebuild import Inputs, Source

__all__ = ["MOST", "inputs_of", "task_inputs"]

MOST = 4096  # of a data set or loader: as many as all gates look at, twice over
_ORIGIN = "examples given"


def inputs_of(
    source: Source, inputs: NDArray[Any], targets: NDArray[Any] | None
) -> Inputs:
    """Given arrays in the dtype that the module takes.

    Raises:
        DataError: If they are of another shape, not finite, or lose by the cast.
    """
    shape = source.input_shape
    if inputs.shape[1:] != shape:
        raise DataError(
            f"calibration has inputs of shape {inputs.shape[1:]}, the model takes "
            f"{shape}",
            remedy="Give prepared inputs, (n, *input_shape), or correct input_shape.",
        )
    bad = not_finite(inputs)
    if bad.size:
        raise DataError(
            f"calibration: {bad.size} of {len(inputs)} inputs are not finite, the "
            f"first is number {int(bad[0])}",
            remedy="Leave these out.",
        )
    batch = torch.from_numpy(native(inputs))
    floats = batch.to(torch.float32) if batch.is_floating_point() else batch
    source = replace(source, given=Inputs(floats.numpy(), None, _ORIGIN))
    dtype = _taken(source)
    cast = batch.to(dtype)
    if not dtype.is_floating_point and not bool((cast == batch).all()):
        raise DataError(
            f"calibration has inputs of {inputs.dtype}, the model takes {dtype}",
            remedy="Give whole numbers.",
        )
    wanted = None if targets is None else native(targets)
    return Inputs(cast.numpy(), wanted, _ORIGIN)


def task_inputs(task: Task, given: Any) -> Inputs:
    """Raw examples of a task, prepared as the task does it.

    Raises:
        DataError: If they have no targets, or do not fit the task.
        TaskError: If a step of the task on some of them fails.
    """
    inputs, targets = rows_of(given, "calibration", most=MOST)
    if targets is None:
        raise DataError(
            f"calibration has no targets, which task {task.name} is measured by",
            remedy="Give edge_sdk.Examples(inputs, targets).",
        )
    examples = Examples(inputs, targets)
    own = replace(task, eval_data=lambda _: examples)
    read = own.read_eval(Path("calibration"))
    with torch.no_grad():
        batch, wanted = tensors(task, read, slice(0, MOST))
    return Inputs(
        batch.contiguous().numpy(), wanted.numpy(), _ORIGIN, read.inputs[:MOST], read
    )


def _taken(source: Source) -> torch.dtype:
    """The dtype of what the model takes; of what is given, where nothing else fits."""
    try:
        return source.example(1).dtype
    except TaskError:  # pragma: no cover - given inputs are what example falls back on
        return torch.float32
