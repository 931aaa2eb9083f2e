"""Inputs given to an export: arrays of any kind, in the dtype that the model takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import DataError, TaskError
from edge_sdk.tasks.arrays import native, not_finite, numbers
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.task import Examples, Task
from export.rebuild import Inputs, Source

__all__ = ["inputs_of", "rows_of", "task_inputs"]

_MOST = 4096  # of a data set or loader: as many as all gates look at, twice over
_ORIGIN = "examples given"

Rows = tuple[NDArray[Any], NDArray[Any] | None]


def rows_of(given: Any) -> Rows:
    """Inputs and, where there are any, targets: (n, ...) arrays.

    Args:
        given: `Examples`; an array, tensor, data frame or list of inputs; a tuple
            (inputs, targets); a torch ``Dataset`` of inputs or (input, target); a
            ``DataLoader`` of batches of these.

    Raises:
        DataError: If it is something else, or holds no example.
    """
    if isinstance(given, Examples):
        return given.inputs, given.targets
    if isinstance(given, torch.utils.data.DataLoader):
        return _joined(given, batches=True)
    if isinstance(given, torch.utils.data.Dataset):
        return _joined(_items(given), batches=False)
    if isinstance(given, tuple):
        if len(given) != 2:
            raise DataError(
                f"calibration is a tuple of {len(given)}",
                remedy="Give inputs, or the pair (inputs, targets).",
            )
        both = Examples(_array(given[0], "inputs"), _array(given[1], "targets"))
        return both.inputs, both.targets
    inputs = numbers(_array(given, "calibration"), "calibration")
    if not len(inputs):
        raise DataError("calibration holds no examples")
    return inputs, None


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
    inputs, targets = rows_of(given)
    if targets is None:
        raise DataError(
            f"calibration has no targets, which task {task.name} is measured by",
            remedy="Give edge_sdk.Examples(inputs, targets).",
        )
    examples = Examples(inputs, targets)
    own = replace(task, eval_data=lambda _: examples)
    read = own.read_eval(Path("calibration"))
    with torch.no_grad():
        batch, wanted = tensors(task, read, slice(0, _MOST))
    return Inputs(
        batch.contiguous().numpy(), wanted.numpy(), _ORIGIN, read.inputs[:_MOST], read
    )


def _taken(source: Source) -> torch.dtype:
    """The dtype of what the model takes; of what is given, where nothing else fits."""
    try:
        return source.example(1).dtype
    except TaskError:  # pragma: no cover - given inputs are what example falls back on
        return torch.float32


def _items(data: Any) -> Iterable[Any]:
    """Examples of a data set, spread over it where it tells its length."""
    if not hasattr(data, "__len__"):
        return islice(iter(data), _MOST)
    step = max(1, len(data) // _MOST)
    return (data[i] for i in range(0, len(data), step)[:_MOST])


def _joined(parts: Iterable[Any], *, batches: bool) -> Rows:
    """Examples, or batches of them, as one array each."""
    inputs, targets, count = [], [], 0
    for part in parts:
        pair = isinstance(part, list | tuple)
        if pair and not 1 <= len(part) <= 2:
            raise DataError(
                f"calibration gives {len(part)} values per example",
                remedy="Give inputs, or pairs (input, target).",
            )
        inputs.append(_array(part[0] if pair else part, "inputs"))
        if pair and len(part) == 2:
            targets.append(_array(part[1], "targets"))
        count += len(inputs[-1]) if batches else 1
        if count >= _MOST:
            break
    if not inputs:
        raise DataError("calibration holds no examples")
    join = np.concatenate if batches else np.stack
    try:
        found = join(inputs)
        wanted = join(targets) if targets else None
    except ValueError as error:
        raise DataError(
            f"calibration has examples of several shapes: {error}",
            remedy="Pad or cut them to one shape.",
        ) from error
    return numbers(found, "inputs"), None if wanted is None else numbers(
        wanted, "targets"
    )


def _array(given: Any, what: str) -> NDArray[Any]:
    """A numpy array of a tensor in any place, a data frame, a list or a number."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        plain = given.float() if given.dtype is torch.bfloat16 else given
        found: NDArray[Any] = plain.numpy()
        return found
    if isinstance(given, list | tuple):
        given = [
            _array(one, what) if isinstance(one, torch.Tensor) else one for one in given
        ]
    if callable(frame := getattr(given, "to_numpy", None)):
        given = frame()
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what} do not make an array: {error}",
            remedy="Give examples of one shape.",
        ) from error
