"""Check that examples fit a task's model and loss, made where they are read.

One step on a few examples finds the dtypes that model and loss take; what they do not
take ends here, before anything is planned, and not in a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import DataError, TaskError
from edge_sdk.tasks.arrays import extremes, native
from edge_sdk.tasks.batch import augmented, prepared, tensors
from edge_sdk.tasks.casts import Casts
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.trial_step import TrialStep
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.tasks.value_check import check_finite, check_precision

__all__ = ["fitted"]

_KEPT = 64  # tasks and forms of data whose casts are remembered
_Key: TypeAlias = tuple[Task, str, tuple[int, ...], str, tuple[int, ...]]
_Ranges: TypeAlias = dict[str, tuple[int, int]]  # of integers: least and largest


@dataclass(frozen=True)
class _Fit:
    """The casts of a form of data, and the range of integers that went through."""

    casts: Casts
    passed: _Ranges

    def holds(self, ranges: _Ranges) -> bool:
        return all(
            self.passed[name][0] <= low and high <= self.passed[name][1]
            for name, (low, high) in ranges.items()
        )


_FITS: dict[_Key, _Fit] = {}


def fitted(task: Task, examples: Examples, folder: Path, *, known: bool) -> Examples:
    """The examples with what a batch of them is cast to.

    Args:
        task: Whose model and loss.
        examples: As they were read.
        folder: Where from, for messages.
        known: Whether these very examples were looked at before, here or elsewhere.

    Raises:
        DataError: If a value is not finite, or loses in the model's precision what
            tells it from others.
        TaskError: If model or loss do not take the examples; says why.
    """
    where = f"task {task.name}, examples of {folder}"
    key = (
        *(task, str(examples.inputs.dtype), examples.inputs.shape[1:]),
        *(str(examples.targets.dtype), examples.targets.shape[1:]),
    )
    fit = _FITS.get(key)
    if fit is None or not known:
        picks, ranges = _picks(examples)
        if fit is None or not fit.holds(ranges):
            fit = _Fit(
                _tried(task, examples, picks, where, _forms(examples, ranges)), ranges
            )
            while len(_FITS) >= _KEPT:
                _FITS.pop(next(iter(_FITS)))
            _FITS[key] = fit
    found = replace(examples, casts=fit.casts)
    if not known:
        with _located(where), blamed(task.name, f"preparing the examples of {folder}"):
            check_finite(task, found, where, lambda at: _loss(task, found, at))
            check_precision(task, found, where)
    return found


def _picks(examples: Examples) -> tuple[NDArray[np.int64], _Ranges]:
    """A few examples, those of the least and largest integers too, and the ranges.

    At least two, as batch norm cannot train on one: a lone example is taken twice.
    """
    picks = [0, len(examples) - 1]
    ranges: _Ranges = {}
    for name in ("inputs", "targets"):
        array: NDArray[np.generic] = getattr(examples, name)
        if array.dtype.kind in "iu":
            low, high, low_at, high_at = extremes(array)
            picks += [low_at, high_at]
            ranges[name] = low, high
    distinct = list(dict.fromkeys(picks))
    return np.array(distinct if len(distinct) > 1 else distinct * 2), ranges


def _forms(examples: Examples, ranges: _Ranges) -> str:
    """DescribeData the arrays: dtype, shape of one example, range of integers."""
    said = []
    for name in ("inputs", "targets"):
        array: NDArray[np.generic] = getattr(examples, name)
        shape = f" {array.shape[1:]}" if array.ndim > 1 else ""
        span = ""
        if name in ranges:
            low, high = ranges[name]
            span = f" from {low} to {high}"
        said.append(f"{name} are {array.dtype}{shape}{span}")
    return ", ".join(said)


def _tried(
    task: Task,
    examples: Examples,
    picks: NDArray[np.int64],
    where: str,
    forms: str,
) -> Casts:
    with _quietly(), _located(where):
        with blamed(task.name, f"preparing {where.partition(', ')[2]}"):
            inputs = prepared(task, examples.inputs[picks])
        if tuple(inputs.shape) != (len(picks), *task.input_shape):
            raise TaskError(
                f"{where}: prepared inputs have shape {tuple(inputs.shape[1:])}, the "
                f"task says input_shape = {tuple(task.input_shape)}",
                remedy="Correct the task's input_shape, or its prepare.",
            )
        with blamed(task.name, "making the model"):
            model = make_model(task, 0).train()
        targets = torch.from_numpy(native(examples.targets[picks]))
        casts = TrialStep(task, model, where, forms).casts(inputs, targets)
        with blamed(task.name, f"augmenting {where.partition(', ')[2]}"):
            augmented(task, inputs.to(casts.inputs), torch.Generator().manual_seed(0))
        return casts


def _loss(task: Task, examples: Examples, at: NDArray[np.int64]) -> float:
    with _quietly(), torch.no_grad():
        inputs, targets = tensors(task, examples, np.resize(at, max(2, len(at))))
        return float(task.loss(make_model(task, 0).train()(inputs), targets))


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Errors of single arrays say whose they are."""
    try:
        yield
    except DataError as error:
        if where in str(error):
            raise
        raise DataError(f"{where}: {error}", remedy=error.help) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Leaves random numbers as they are, and takes one thread: it is not worth more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
