"""The task of a run: its parts named one by one, and kept out of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from edge_sdk.errors import TaskError
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.parts.adapted_model import adapted, is_adapter, ranks_in
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.low_rank import ranks_of
from edge_sdk.tasks.parts.patterns import matched
from edge_sdk.tasks.parts.start import start_state
from edge_sdk.tasks.parts.statistics import check_statistics
from edge_sdk.tasks.task import Task

__all__ = ["PartSettings", "adapted_task", "run_task"]


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

    @property
    def adapters(self) -> Adapters | None:
        """Low-rank adapters, which train in place of the layers they are on."""
        ...


def run_task(task: Task, settings: PartSettings) -> Task:
    """The task with patterns made names, and its parts that stay apart left dense.

    A task that was made so before comes back the same.

    Args:
        task: As its module has it.
        settings: Of the run; what they name takes the place of the task's own.

    Raises:
        TaskError: If a pattern matches nothing or everything, parts overlap, nothing is
            left to mask, an adapter's rank is too large, the start file does not fit,
            or a statistic's buffer is none.
    """
    start = Path(settings.start) if settings.start else task.start
    task = replace(
        task,
        personal=tuple(settings.personal) or task.personal,
        frozen=tuple(settings.frozen) or task.frozen,
        start=start,
        adapters=settings.adapters or task.adapters,
    )
    task = adapted_task(task, task.adapters)
    own = task.personal, task.frozen, start, task.adapters, task.statistics
    if not any(own):
        return task
    model = make_model(task, 0)
    check_statistics(task, model)
    names = list(model.state_dict())
    personal = matched(task, "personal", names)
    frozen = matched(task, "frozen", names)
    if ranks_in(task.model):
        frozen = _all_but_adapters(task, names, personal, frozen)
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
        ranks = ranks_in(task.model)
        new = frozenset(n for n in names if is_adapter(n, ranks))
        found = start_state(start, initial_state(replace(task, start=None), 0), new)
        lacking = [n for n in frozen if n not in found and n not in task.statistics]
        if lacking:
            raise TaskError(
                f"start file {start} does not have {', '.join(lacking[:4])}, which "
                "nobody trains",
                remedy="Put it into the file, or let it train: name it in "
                + ("adapters.train." if task.adapters else "frozen no longer."),
            )
    dense = task.dense_layers | (apart & maskable)
    return replace(task, personal=personal, frozen=frozen, dense_layers=dense)


def adapted_task(task: Task, adapters: Adapters | None) -> Task:
    """The task with a model that has these adapters; None leaves it as it is.

    Raises:
        TaskError: If a pattern matches no layer that can have one, or a rank is too
            large.
    """
    if adapters is None:
        return task
    plain = make_model(replace(task, model=adapted(task.model, {}), frozen=()), 0)
    ranks = ranks_of(task.name, adapters, plain)
    return replace(task, model=adapted(task.model, ranks))


def _all_but_adapters(
    task: Task, names: Sequence[str], personal: Sequence[str], frozen: Sequence[str]
) -> tuple[str, ...]:
    """Every entry that neither an adapter, nor `train`, nor a device has for itself.

    Raises:
        TaskError: If an entry that adapters train or need is personal or frozen.
    """
    ranks = ranks_in(task.model)
    trained = set(matched(task, "adapters.train", names))
    trained.update(name for name in names if is_adapter(name, ranks))
    under = {f"{layer}.weight".removeprefix(".") for layer in ranks}
    for what, among in (("frozen", trained), ("personal", trained | under)):
        both = [n for n in (frozen if what == "frozen" else personal) if n in among]
        if both:
            why = "is under an adapter" if both[0] in under else "trains with adapters"
            raise TaskError(
                f"task {task.name}: {both[0]} is {what}, and {why}",
                remedy=f"Take it out of {what}, or leave its layer out of adapters.on "
                "and adapters.train.",
            )
    twice = sorted(trained & under)
    if twice:
        raise TaskError(
            f"task {task.name}: {twice[0]} is in adapters.train, and under an adapter",
            remedy="Name its layer in one of adapters.on and adapters.train.",
        )
    return tuple(n for n in names if n not in trained and n not in personal)
