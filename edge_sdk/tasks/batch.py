"""A batch as model and loss get it: prepared, of their dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import TaskError, a_type
from edge_sdk.tasks.arrays import check_present, native
from edge_sdk.tasks.casts import default_casts
from edge_sdk.tasks.task import Examples, Task

__all__ = ["augmented", "prepared", "tensors"]


def tensors(
    task: Task, examples: Examples, index: NDArray[np.int64] | slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prepared inputs and the targets at these positions, as model and loss take.

    Raises:
        TaskError: If `Task.prepare` gives anything but a tensor.
        DataError: If the examples are mapped from a file that was cut meanwhile.
    """
    check_present(examples.inputs, examples.targets)
    inputs = prepared(task, examples.inputs[index])
    targets = torch.from_numpy(native(examples.targets[index]))
    casts = examples.casts or default_casts(inputs.dtype, targets.dtype)
    return inputs.to(casts.inputs), targets.to(casts.targets)


def prepared(task: Task, raw: NDArray[np.generic]) -> torch.Tensor:
    """Apply `Task.prepare` to a raw batch; its dtype is not cast yet.

    Raises:
        TaskError: If it gives anything but a tensor.
    """
    found = task.prepare(torch.from_numpy(native(raw)))
    if not isinstance(found, torch.Tensor):
        raise TaskError(
            f"task {task.name}: prepare gives {a_type(found)}, not a tensor",
            remedy="A model takes one tensor: join several inputs into one, and take "
            "them apart in its forward.",
        )
    return found


def augmented(
    task: Task, inputs: torch.Tensor, noise: torch.Generator | None
) -> torch.Tensor:
    """Apply `Task.augment` to a prepared batch: the same shape and dtype.

    Args:
        task: Without an `augment` the batch stays what it is.
        inputs: (n, *input_shape), as the model takes them.
        noise: Draws the randomness; None for none of it.

    Raises:
        TaskError: If it gives no tensor, or another shape.
    """
    if task.augment is None or noise is None:
        return inputs
    found: Any = task.augment(inputs, noise)
    if isinstance(found, torch.Tensor) and found.shape == inputs.shape:
        return found.to(inputs.dtype)
    got = (
        f"shape {tuple(found.shape[1:])}"
        if isinstance(found, torch.Tensor)
        else a_type(found)
    )
    raise TaskError(
        f"task {task.name}: augment gives {got} for prepared inputs of shape "
        f"{tuple(inputs.shape[1:])}",
        remedy="Return a tensor of the shape that augment was given: it gets what "
        "prepare made of the batch.",
    )
