"""Weights that stay: those with ``requires_grad = False``, and what stays apart.

No engine trains the former, and no update has the latter. What else could move them is
here: the scaling of a run's first weights, a mean in which devices without a weight
count as 0, a mask that drops a weight and takes it up again, and a device that sends a
change all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.mean import Model
from edge_sdk.tasks.layers import initial_state, make_model
from edge_sdk.tasks.task import Task

__all__ = ["Fixed", "fixed_weights", "with_fixed"]

Fixed = Mapping[str, NDArray[Any]]


def fixed_weights(task: Task, seed: int) -> Fixed:
    """Name to initial values of each entry that the user has frozen or made personal.

    Args:
        task: Whose patterns are names, as `edge_sdk.tasks.parts.run_task` leaves them.
        seed: Of the initial values.

    Raises:
        TaskError: If the task's factory does not return a module.
    """
    own = make_model(task, seed).named_parameters(remove_duplicate=False)
    fixed = {n for n, p in own if not p.requires_grad}
    fixed.update(task.personal, task.frozen)
    return {n: a for n, a in initial_state(task, seed).items() if n in fixed}


def with_fixed(model: Model, base: Model | None, fixed: Fixed) -> Model:
    """The model with every fixed weight as the base has it.

    Args:
        model: Made of the base.
        base: What it was made of; None before the first round.
        fixed: Initial values, for what the base does not hold.
    """
    if not fixed:
        return model
    masked, dense = dict(model.masked), dict(model.dense)
    for name, start in fixed.items():
        if name in dense:
            dense[name] = start if base is None else base.dense[name]
        elif name in masked:
            kept = start
            if base is not None:
                kept = np.where(base.mask[name], base.full(name), start)
            masked[name] = kept[model.mask[name]]
    return replace(model, masked=masked, dense=dense)
