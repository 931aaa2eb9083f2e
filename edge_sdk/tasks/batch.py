"""A batch as model and loss get it: prepared, of their dtypes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import TaskError
from edge_sdk.tasks.arrays import native
from edge_sdk.tasks.casts import default_casts
from edge_sdk.tasks.task import Examples, Task

__all__ = ["prepared", "tensors"]


def tensors(
    task: Task, examples: Examples, index: NDArray[np.int64] | slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prepared inputs and the targets at these positions, as model and loss take.

    Raises:
        TaskError: If `Task.prepare` gives anything but a tensor.
    """
    inputs = prepared(task, examples.inputs[index])
    targets = torch.from_numpy(native(examples.targets[index]))
    casts = examples.casts or default_casts(inputs.dtype, targets.dtype)
    return inputs.to(casts.inputs), targets.to(casts.targets)


def prepared(task: Task, raw: NDArray[np.generic]) -> torch.Tensor:
    """What `Task.prepare` makes of a raw batch; of its own dtype yet.

    Raises:
        TaskError: If it gives anything but a tensor.
    """
    found = task.prepare(torch.from_numpy(native(raw)))
    if not isinstance(found, torch.Tensor):
        raise TaskError(
            f"task {task.name}: prepare gives a {type(found).__name__}, not a tensor",
            remedy="A model takes one tensor: join several inputs into one, and take "
            "them apart in its forward.",
        )
    return found
