"""The task of a run: its parts named one by one, and kept out of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edge_sdk.errors import TaskError
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.parts.patterns import matched
from edge_sdk.tasks.parts.start import start_state
from edge_sdk.tasks.parts.statistics import check_statistics
from edge_sdk.tasks.task import Task

__all__ = ["PartSettings", "run_task"]


class PartSettings(Protocol):
    """Settings that say which parts of a model stay apart, and where it starts."""

    @property
    def personal(self) -> Sequence[str]:
        """Patterns of what each device trains for itself."""
        ...

    @property
    def frozen(self) -> Sequence[str]:
        """Patterns of what nobody trains."""
        ...

    @property
    def start(self) -> Path | str | None:
        """File of a state dict that training begins at."""
        ...


def run_task(task: Task, settings: PartSettings) -> Task:
    """The task with patterns made names, and its parts that stay apart left dense.

    A task that was made so before comes back the same.

    Args:
        task: As its module has it.
        settings: Of the run; what they name takes the place of the task's own.

    Raises:
        TaskError: If a pattern matches nothing or everything, parts overlap, nothing is
            left to mask, the start file does not fit, or a statistic's buffer is none.
    """
    start = Path(settings.start) if settings.start else task.start
    task = replace(
        task,
        personal=tuple(settings.personal) or task.personal,
        frozen=tuple(settings.frozen) or task.frozen,
        start=start,
    )
    if not (task.personal or task.frozen or task.statistics) and start is None:
        return task
    model = make_model(task, 0)
    check_statistics(task, model)
    names = list(model.state_dict())
    personal = matched(task, "personal", names)
    frozen = matched(task, "frozen", names)
    both = sorted(set(personal) & set(frozen))
    if both:
        raise TaskError(
            f"task {task.name}: {both[0]} is personal and frozen at once",
            remedy="Personal weights are trained on each device; name it in one.",
        )
    apart = {*personal, *frozen}
    maskable = {layer.name for layer in layers_of(model, task.dense_layers)}
    if apart and maskable <= apart:
        raise TaskError(
            f"task {task.name}: personal and frozen take every weight that a mask "
            "could act on: nothing would be left to learn together",
            remedy=f"Leave at least one of {', '.join(sorted(maskable)[:4])} out.",
        )
    if start is not None:
        found = start_state(start, initial_state(replace(task, start=None), 0))
        lacking = [name for name in frozen if name not in found]
        if lacking:
            raise TaskError(
                f"start file {start} does not have {', '.join(lacking[:4])}, which "
                "nobody trains",
                remedy="Take it out of frozen, or put it into the file.",
            )
    dense = task.dense_layers | (apart & maskable)
    return replace(task, personal=personal, frozen=frozen, dense_layers=dense)
