"""A model scored on examples: its mean loss, and what else the task is measured by.

A task says its metrics; of one that does not, the share of right answers is told where
its outputs and targets have one, see `edge_sdk.tasks.metrics`. What is counted is sums,
so that parts of an evaluation set add up to the whole whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.evaluation.measure import VALUES, Measure
from edge_sdk.evaluation.metric import Metric, loss
from edge_sdk.evaluation.tally import Tally, total, values_of
from edge_sdk.tasks.arrays import blocks, native
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.example_inputs import inputs_without_data
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.metrics import guess, measured_by
from edge_sdk.tasks.task import Examples, Task

__all__ = ["arrays_of", "measure_of", "metrics_for", "score", "tallies", "tally"]

_LOOKED_AT = 64  # examples that tell what an output is like
_RUN = 2  # of them that go through the model
_BATCH = 250


def metrics_for(task: Task, examples: Examples | None) -> tuple[Metric, ...]:
    """Find the metrics of a task's models; the first is the primary one.

    The task's own metrics; else the share of right answers where there is one. The
    loss is always among them.

    Args:
        task: As its metrics, or its loss, say.
        examples: All of an evaluation set, as the task has read it; None without one.
    """
    found = tuple(task.metrics)
    if not found:
        guessed = measure_of(task, examples).metric()
        found = () if guessed is None else (guessed,)
    return found if any(m.name == loss.name for m in found) else (*found, loss)


def measure_of(task: Task, examples: Examples | None) -> Measure:
    """Find the measure of a task's models on these examples.

    Args:
        task: Its loss decides; see `measured_by`.
        examples: All of an evaluation set, as the task has read it; without one the
            outputs' shape decides.
    """
    if examples is None:
        return _guessed(task)
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


def _guessed(task: Task) -> Measure:
    model = make_model(task, 0).eval()
    given = inputs_without_data(
        *(task.name, model, tuple(task.input_shape), _RUN),
        stated=task.example_inputs,
        prepare=task.prepare,
    )
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        return guess(task.loss, model(given))


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
    predict: Callable[[torch.Tensor], Any],
    task: Task,
    examples: Examples,
    metrics: Sequence[Metric],
    *,
    batch: int = _BATCH,
) -> Tally:
    """Sums of the metrics over the examples; a metric that fails is named in it.

    Args:
        predict: Model inputs to outputs.
        task: Gives preparation and loss.
        examples: Some or all of the evaluation set.
        metrics: Of the whole set, so that its parts say the same; the loss is summed
            whether it is among them or not.
        batch: Examples at once.
    """
    return total(tallies(predict, task, examples, metrics, batch=batch))


def tallies(
    predict: Callable[[torch.Tensor], Any],
    task: Task,
    examples: Examples,
    metrics: Sequence[Metric],
    *,
    batch: int = _BATCH,
) -> Iterator[Tally]:
    """As `tally`, batch by batch."""
    with torch.inference_mode():
        for start in range(0, len(examples), batch):
            inputs, targets = tensors(task, examples, slice(start, start + batch))
            out = predict(inputs)
            losses = float(task.loss(out, targets)) * len(targets)
            yield Tally().of_batch(metrics, arrays_of(out), targets.numpy(), losses)


def arrays_of(outputs: Any) -> Any:
    """A model's outputs as numpy arrays, whatever holds them."""
    if isinstance(outputs, torch.Tensor):
        half = outputs.dtype in {torch.float16, torch.bfloat16}
        return (outputs.float() if half else outputs).cpu().numpy()
    if isinstance(outputs, dict):
        return {name: arrays_of(one) for name, one in outputs.items()}
    if isinstance(outputs, tuple | list):
        return tuple(arrays_of(one) for one in outputs)
    return outputs


def score(
    predict: Callable[[torch.Tensor], Any],
    task: Task,
    examples: Examples,
    metrics: Sequence[Metric],
    *,
    batch: int = _BATCH,
) -> dict[str, float]:
    """The metrics' values over the examples, by name; see `values_of`."""
    found = tally(predict, task, examples, metrics, batch=batch)
    return values_of(metrics, found, f"task {task.name}")
