"""Statistics that a run asks for, and the buffers of its model that take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.mean import Model
from coordinator.settings import RunSettings
from edge_sdk.errors import SettingsError
from edge_sdk.evaluation.data_sums import MOST_CLASSES
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.parts.statistics import statistics_shape
from edge_sdk.tasks.task import Task
from edge_sdk.wire.evaluation import DataQuery

__all__ = ["query_of", "wants_statistics", "with_statistics"]


def wants_statistics(settings: RunSettings, task: Task) -> bool:
    """Return whether a run asks devices for statistics of their examples.

    Raises:
        SettingsError: If the run is private: they have no noise.
    """
    wanted = settings.statistics.collect or bool(task.statistics)
    if wanted and settings.privacy.on:
        raise SettingsError(
            "key statistics: statistics of the examples have no noise, and would tell "
            "what [privacy] is to hide",
            remedy="Leave them out of settings and task, with constants in the "
            "model's buffers, or leave [privacy] out.",
        )
    return wanted


def query_of(settings: RunSettings, task: Task) -> DataQuery:
    """The question to the devices, by the buffers that a task fills.

    Raises:
        TaskError: If the task's factory does not return a module.
    """
    buffers = {n: tuple(b.shape) for n, b in make_model(task, 0).named_buffers()}
    sizes = [
        math.prod(buffers[name])
        for name, kind in task.statistics.items()
        if kind == "classes"
    ]
    return DataQuery(
        shape=statistics_shape(task, buffers),
        classes=next(iter(sizes), len(task.labels) or MOST_CLASSES),
        bins=settings.statistics.bins,
        low=settings.statistics.low,
        high=settings.statistics.high,
    )


def with_statistics(task: Task, model: Model, found: Mapping[str, Any] | None) -> Model:
    """The model with its buffers filled; as it is where nothing was found.

    A deviation of 0, of a number that never changes, becomes 1. Classes are shares.

    Args:
        task: Says which buffer takes which statistic.
        model: Before training.
        found: As `Joined.plain` gives it.
    """
    if not found or "mean" not in found or not task.statistics:
        return model
    deviation = np.array(found["deviation"])
    numbers: dict[str, NDArray[Any]] = {
        "mean": np.array(found["mean"]),
        "deviation": np.where(deviation > 0, deviation, 1.0),
    }
    dense = dict(model.dense)
    for name, kind in task.statistics.items():
        entry = dense[name]
        if kind == "classes":
            counts = np.zeros(entry.size)
            counts[: len(found["classes"])] = found["classes"]
            if not counts.sum():
                continue
            filled = counts / counts.sum()
        else:
            filled = numbers[kind]
        dense[name] = filled.astype(entry.dtype).reshape(entry.shape)
    return replace(model, dense=dense)
