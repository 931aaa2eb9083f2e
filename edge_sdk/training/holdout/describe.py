"""Statistics of a device's examples, as a coordinator asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.evaluation.data_sums import DataSums, sums_of
from edge_sdk.tasks.arrays import blocks, native
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.batch import prepared_array
from edge_sdk.tasks.without_torch.halves import ArrayFunction
from edge_sdk.training.local import Stopped
from edge_sdk.wire.evaluation import DataQuery, DataSummary

__all__ = ["describe", "summary_of"]


def describe(
    task: Task,
    examples: Examples,
    query: DataQuery,
    stop: Callable[[], bool] = lambda: False,
) -> DataSums:
    """Statistics of prepared examples, block by block; no example is held twice.

    Args:
        task: Its preparation.
        examples: The device's own, those held out left out.
        query: Which.
        stop: Asked between blocks.

    Raises:
        Stopped: If `stop` turned true.
        DataError: If prepared inputs are not finite, or targets or shapes do not fit
            what is asked.
    """
    if not len(examples):
        raise DataError(f"task {task.name}: there are no examples to describe")
    found: DataSums | None = None
    edges = (query.low, query.high, query.bins) if query.bins else None
    for first, raw in blocks(examples.inputs):
        if stop():
            raise Stopped
        inputs = _prepared(task, raw)
        if not np.isfinite(inputs).all():
            raise DataError(
                f"task {task.name}: prepared inputs are not finite, so they have no "
                "mean",
                remedy="Leave these examples out, or fill them in, in Task.prepare.",
            )
        try:
            part = sums_of(
                inputs,
                examples.targets[first : first + len(raw)],
                shape=query.shape,
                classes=query.classes,
                edges=edges,
            )
        except ValueError as error:
            raise DataError(
                f"task {task.name}: no statistics of its examples: {error}",
                remedy=f"{query.classes} classes and statistics of shape "
                f"{tuple(query.shape)} are asked for; the task and its data differ.",
            ) from error
        found = part if found is None else found.plus(part)
    assert found is not None  # noqa: S101 - there is an example
    return found


def summary_of(sums: DataSums) -> DataSummary:
    """The statistics as they travel."""
    return DataSummary(
        examples=int(sums.examples),
        values=int(sums.values),
        mean=sums.mean.reshape(-1).tolist(),
        squares=sums.squares.reshape(-1).tolist(),
        classes=[int(count) for count in sums.classes],
        histogram=[int(count) for count in sums.histogram],
    )


def _prepared(task: Task, raw: NDArray[np.generic]) -> NDArray[Any]:
    if task.prepares_nothing:
        return native(raw)
    if isinstance(task.prepare, ArrayFunction):
        return prepared_array(task, raw)
    from edge_sdk.tasks.batch import prepared  # noqa: PLC0415 - imports torch

    return prepared(task, raw).numpy()
