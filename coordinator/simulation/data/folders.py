"""Folders of a simulation's examples: a person's own, or a data set cut up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from coordinator.simulation.settings import SimulationSettings
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import EVALUATION_FOLDER, prepare_folders
from edge_sdk.errors import DataError, TaskError, two_sentences
from edge_sdk.tasks.task import Task, load_task

__all__ = ["CACHE", "counted", "places_of", "read_as_partitions", "task_of"]

CACHE = Path("~/.cache/flash-edge")


def places_of(
    settings: SimulationSettings,
    *,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, Path], Path]:
    """Device name to its folder, and the evaluation folder.

    A shipped data set is cut up once per (data set, devices, alpha, seed) and shared by
    all runs that name the same, so methods are compared on the same partition.

    Raises:
        DataError: If the data cannot be had, or a folder holds no device.
    """
    if settings.folder:
        return _own(Path(settings.folder).expanduser())
    cache = (cache or CACHE).expanduser()
    names = [f"device-{i:05d}" for i in range(settings.devices)]
    alpha, seed = settings.alpha, settings.seed
    out = cache / "partitions" / f"{settings.data}-{len(names)}-{alpha:g}-{seed}"
    found = prepare_folders(
        settings.data, cache, out, names, alpha=alpha, seed=seed, progress=progress
    )
    return {name: found[name] for name in names}, found[EVALUATION_FOLDER]


def task_of(settings: SimulationSettings) -> Task:
    """The run's task by its reference, reading its examples as the settings say.

    Raises:
        TaskError: If it cannot be imported or is none.
    """
    task = load_task(settings.task)
    return read_as_partitions(task) if settings.partitions else task


def read_as_partitions(task: Task) -> Task:
    """The same task, reading ``train.npz`` and ``eval.npz`` of a folder."""
    return replace(
        task,
        train_data=load_partition,
        eval_data=partial(load_partition, part="eval"),
    )


def counted(
    task: Task, folders: Mapping[str, Path]
) -> tuple[dict[str, int], dict[str, str]]:
    """Device to its number of examples, and device to why it can use none.

    A device whose examples are missing, damaged, or do not fit model and loss refuses
    itself in a federation, and the others go on: so they do here.

    Raises:
        DataError: If no device has examples that it can use; gives the first's reason.
        TaskError: Alike, where model or loss do not take them.
    """
    counts: dict[str, int] = {}
    refused: dict[str, DataError | TaskError] = {}
    for name, folder in folders.items():
        try:
            counts[name] = len(task.read_train(folder))
        except (DataError, TaskError) as error:  # noqa: PERF203 - each on its own
            refused[name] = error
    if refused and not counts:
        name, first = next(iter(refused.items()))
        others = f" (and none of {len(refused) - 1} others can)" * (len(refused) > 1)
        raise type(first)(
            f"device {name} cannot train{others}: {first}", remedy=first.help
        ) from first
    return counts, {d: two_sentences(e, e.help) for d, e in refused.items()}


def _own(folder: Path) -> tuple[dict[str, Path], Path]:
    devices = {
        path.name: path
        for path in sorted(folder.glob("*"))
        if path.is_dir() and path.name != EVALUATION_FOLDER
    }
    if not devices or not (folder / EVALUATION_FOLDER).is_dir():
        raise DataError(
            f"{folder} is not a folder of devices",
            remedy=f"It needs one subfolder per device and one named "
            f"{EVALUATION_FOLDER}.",
        )
    return devices, folder / EVALUATION_FOLDER
