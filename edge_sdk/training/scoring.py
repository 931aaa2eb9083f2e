"""A model scored on examples: its mean loss, and what share of answers is right.

A share is only told where the task's outputs and targets have one, see
`edge_sdk.tasks.metrics`. What is counted is sums, so that parts of an evaluation set
add up to the whole whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.tasks.arrays import blocks, native
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.metrics import VALUES, Measure, measured_by
from edge_sdk.tasks.task import Examples, Task

__all__ = ["Tally", "means", "measure_of", "score", "tally"]

# Metric -> (sum, weight): the mean is their quotient.
Tally: TypeAlias = Mapping[str, tuple[float, float]]

_LOOKED_AT = 64  # examples that tell what an output is like
_RUN = 2  # of them that go through the model
_BATCH = 250


def measure_of(task: Task, examples: Examples) -> Measure:
    """Find the measure of a task's models on these examples.

    Args:
        task: Its loss decides; see `measured_by`.
        examples: All of an evaluation set, as the task has read it.
    """
    few = slice(0, _LOOKED_AT)
    inputs, targets = tensors(task, examples, few)
    model = make_model(task, 0).eval()
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        outputs: Any = model(inputs[:_RUN])
    if inputs.shape == targets.shape and torch.equal(inputs, targets.to(inputs.dtype)):
        return VALUES  # an autoencoder: it has no answers, only likeness
    found = measured_by(task.loss, outputs, targets)
    if found.kind in {"classes", "values"}:
        return found
    return found if _holds(found, examples.targets) else VALUES


def _holds(found: Measure, targets: NDArray[np.generic]) -> bool:
    """Return whether all targets are of the form that the first ones are of."""
    for _, part in blocks(targets):
        values = native(part)
        if not np.isin(values, (0, 1)).all():
            return False
        if found.kind == "one-hot" and not (values.sum(axis=1) == 1).all():
            return False
    return True


def tally(
    predict: Callable[[torch.Tensor], torch.Tensor],
    task: Task,
    examples: Examples,
    measure: Measure,
    *,
    batch: int = _BATCH,
) -> Tally:
    """Sums of the loss, and of right answers where there are some, over the examples.

    Args:
        predict: Model inputs to outputs.
        task: Gives preparation and loss.
        examples: Some or all of the evaluation set.
        measure: Of the whole set, so that its parts say the same.
        batch: Examples at once.
    """
    loss, right, counted = 0.0, 0, 0
    with torch.inference_mode():
        for start in range(0, len(examples), batch):
            inputs, targets = tensors(task, examples, slice(start, start + batch))
            out = predict(inputs)
            loss += float(task.loss(out, targets)) * len(targets)
            if measure.name:
                more, answers = measure.right(out, targets)
                right, counted = right + more, counted + answers
    found = {"loss": (loss, float(len(examples)))}
    if measure.name:
        found[measure.name] = (float(right), float(counted))
    return found


def means(parts: Iterable[Tally]) -> dict[str, float]:
    """Metric to its mean over all parts; one that nothing counts for is left out.

    Example:
        >>> means([{"accuracy": (3.0, 4.0)}, {"accuracy": (0.0, 2.0)}])
        {'accuracy': 0.5}
    """
    sums: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + total, before[1] + weight
    return {name: total / weight for name, (total, weight) in sums.items() if weight}


def score(
    predict: Callable[[torch.Tensor], torch.Tensor],
    task: Task,
    examples: Examples,
    measure: Measure,
    *,
    batch: int = _BATCH,
) -> dict[str, float]:
    """Mean loss over the examples, and the share of right answers where there is one.

    `measure.name` is its key: "accuracy", of answers (each pixel or step counts), or
    "label_accuracy", of labels that may hold together.
    """
    return means([tally(predict, task, examples, measure, batch=batch)])
