"""Buffers of a model that statistics of all devices' examples go into."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.evaluation.data_sums import summed_axes
from edge_sdk.tasks.task import Task

__all__ = ["STATISTICS", "check_statistics", "statistics_shape"]

STATISTICS = ("mean", "deviation", "classes")


def check_statistics(task: Task, model: nn.Module) -> None:
    """Refuses names that are no buffer, and shapes that no statistic has.

    Raises:
        TaskError: Names the buffer, and what there is.
    """
    buffers = dict(model.named_buffers())
    there = ", ".join(buffers) or "none"
    shapes = set()
    for name, kind in task.statistics.items():
        if kind not in STATISTICS:
            raise TaskError(
                f"task {task.name}: statistics gives {name} {kind!r}",
                remedy=f"It is one of {', '.join(STATISTICS)}.",
            )
        if name not in buffers or not buffers[name].is_floating_point():
            raise TaskError(
                f"task {task.name}: statistics names {name}, which is no buffer of "
                "floats",
                remedy=f"Register one by register_buffer; the model has: {there}.",
            )
        shape = tuple(buffers[name].shape)
        if kind == "classes":
            if task.labels and buffers[name].numel() != len(task.labels):
                raise TaskError(
                    f"task {task.name}: buffer {name} has {buffers[name].numel()} "
                    f"numbers for {len(task.labels)} classes",
                    remedy="Give it one number per label.",
                )
            continue
        shapes.add(shape)
        try:
            summed_axes(shape, tuple(task.input_shape))
        except ValueError as error:
            raise TaskError(
                f"task {task.name}: buffer {name}: {error}, the shape of a prepared "
                "example",
                remedy="Put a 1 where the statistic goes over an axis: (3, 1, 1) is "
                "one number for each channel of (3, 32, 32).",
            ) from error
    if len(shapes) > 1:
        raise TaskError(
            f"task {task.name}: buffers for mean and deviation have shapes "
            f"{' and '.join(str(s) for s in sorted(shapes))}",
            remedy="Give them one shape.",
        )


def statistics_shape(task: Task, buffers: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Shape of mean and deviation; one number of all where no buffer takes them."""
    for name, kind in task.statistics.items():
        if kind != "classes":
            return list(buffers[name])
    return []
