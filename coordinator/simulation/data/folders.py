"""Folders of a simulation's examples: a person's own, or a data set cut up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from coordinator.simulation.settings import SimulationSettings
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import EVALUATION_FOLDER, prepare_folders
from edge_sdk.errors import DataError
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


def counted(task: Task, folders: Mapping[str, Path]) -> dict[str, int]:
    """Device to its number of examples.

    Raises:
        DataError: If a device has none, or what it has cannot be read.
    """
    return {name: _count(task, name, folder) for name, folder in folders.items()}


def _count(task: Task, name: str, folder: Path) -> int:
    try:
        return len(task.read_train(folder))
    except DataError as error:
        raise DataError(
            f"device {name} cannot train: {error}", remedy=error.help
        ) from error


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
