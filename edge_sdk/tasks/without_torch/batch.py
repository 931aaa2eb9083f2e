"""Examples checked and batches prepared in numpy, as on a board without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError, TaskError
from edge_sdk.tasks.arrays import native, not_finite
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.tasks.without_torch.halves import ArrayFunction, torch_is_here

__all__ = ["augmented_array", "checked", "prepared_array"]

_SHOWN = 64  # examples that are prepared to see whether `prepare` mends them


def prepared_array(task: Task, raw: NDArray[np.generic]) -> NDArray[Any]:
    """Apply `Task.prepare` to a raw batch; its dtype is not cast yet.

    Args:
        task: Of two modules, or one without a preparation.
        raw: (n, ...) of the examples' dtype.

    Raises:
        TaskError: If it gives anything but an array of n rows.
    """
    found: Any = task.prepare(native(raw))
    if not isinstance(found, np.ndarray) or len(found) != len(raw):
        got = f"{len(found)} rows" if isinstance(found, np.ndarray) else type(found)
        raise TaskError(
            f"task {task.name}: prepare gives {got} for {len(raw)} examples, not an "
            "array of as many",
            remedy="In a task of two modules prepare takes and gives numpy arrays.",
        )
    return found


def augmented_array(
    task: Task, inputs: NDArray[Any], noise: np.random.Generator
) -> NDArray[Any]:
    """Apply `Task.augment` to a prepared batch: the same shape and dtype.

    Raises:
        TaskError: If it gives no array, or another shape.
    """
    if task.augment is None:
        return inputs
    found: Any = task.augment(inputs, noise)
    if not isinstance(found, np.ndarray) or found.shape != inputs.shape:
        got = getattr(found, "shape", type(found).__name__)
        raise TaskError(
            f"task {task.name}: augment gives {got} for prepared inputs of shape "
            f"{inputs.shape}",
            remedy="Return an array of the shape that augment was given.",
        )
    return found.astype(inputs.dtype, copy=False)


def checked(
    task: Task, examples: Examples, folder: Path, *, known: bool, arrays: bool
) -> Examples:
    """The examples, if they fit the task, as far as can be told here.

    Args:
        task: Whose preparation, and where torch is used its model and loss.
        examples: As they were read.
        folder: Where from, for messages.
        known: Whether these very examples were looked at before.
        arrays: Whether numpy alone looks at them, where torch is installed too.

    Raises:
        DataError: If values are not finite, or out of range.
        TaskError: If the task does not take them.
    """
    if arrays or not torch_is_here():
        return _checked_arrays(task, examples, folder)
    from edge_sdk.tasks.example_check import fitted  # noqa: PLC0415 - torch

    return fitted(task, examples, folder, known=known)


def _checked_arrays(task: Task, examples: Examples, folder: Path) -> Examples:
    """The examples, if they are finite and prepare to the task's input shape.

    What model and loss take is not known here: the program that the coordinator sends
    says so, and is asked before the first step.

    Raises:
        DataError: If values are not finite; says how many.
        TaskError: If the preparation raises, is written for torch, or gives another
            shape.
    """
    where = f"task {task.name}, examples of {folder}"
    for what, function in (("prepare", task.prepare), ("augment", task.augment)):
        if function is not None and not isinstance(function, ArrayFunction):
            if what == "prepare" and task.prepares_nothing:
                continue
            raise TaskError(
                f"task {task.name}: {what} is written for torch, which this machine "
                "does not have",
                remedy="Name model and loss by_name in the task, and write prepare and "
                "augment in numpy.",
            )
    with blamed(task.name, f"preparing the examples of {folder}"):
        inputs = prepared_array(task, examples.inputs[:1])
    if tuple(inputs.shape[1:]) != tuple(task.input_shape):
        raise TaskError(
            f"{where}: prepared inputs have shape {tuple(inputs.shape[1:])}, the task "
            f"says input_shape = {tuple(task.input_shape)}",
            remedy="Correct the task's input_shape, or its prepare.",
        )
    for what in ("inputs", "targets"):
        stored: NDArray[np.generic] = getattr(examples, what)
        found = not_finite(stored)
        if not found.size:
            continue
        if what == "inputs":
            some = prepared_array(task, stored[found[:_SHOWN]])
            if np.isfinite(some).all():
                continue
        raise DataError(
            f"{where}: {found.size} of {len(examples)} {what} hold a NaN or an "
            f"infinity, the first is example {found[0]}",
            remedy="Leave these examples out, or fill them in, where the task reads "
            "them.",
        )
    return examples
