"""`coordinator.simulate`: a whole federation as one call, from objects in memory."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.load import check_algorithm, load_algorithm, name_of
from coordinator.settings import CodecSettings, TrainingSettings, WarmUpSettings
from coordinator.simulation import run
from coordinator.simulation.data.folders import read_as_partitions
from coordinator.simulation.data.given import check_examples, write_examples
from coordinator.simulation.result import Run
from coordinator.simulation.settings import (
    FleetGroup,
    SimulationSettings,
    check_simulation,
)
from coordinator.simulation.workers.in_process import in_process
from coordinator.simulation.workers.interface import OpenWorkers
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.datasets.shipped import DATASETS
from edge_sdk.errors import DataError, SettingsError, StateError, TaskError, a_type
from edge_sdk.settings import a_path, as_arguments, explained
from edge_sdk.tasks.reference import reference_of
from edge_sdk.tasks.task import SHIPPED, Examples, Task, check_functions, load_task

__all__ = ["simulate"]

log = logging.getLogger(__name__)

Table: TypeAlias = Mapping[str, Any]
# Examples, or what `rows_of` makes them of: a pair, a torch Dataset or DataLoader.
Given: TypeAlias = "Examples | tuple[Any, Any] | torch.utils.data.Dataset[Any]"
CHAPTER = "A simulation"
COHORT = 10  # updates per round, if so many devices are there


def simulate(
    task: Task | str,
    *,
    devices: Sequence[Given] | int | Sequence[FleetGroup | Table],
    evaluation: Given | None = None,
    algorithm: Algorithm | str = "flash-edge",
    rounds: int = 40,
    densities: Sequence[float] = (0.05, 0.1, 0.2),
    cohort: int | None = None,
    seed: int = 1,
    workers: int = 0,
    folder: str | Path | None = None,
    training: TrainingSettings | Table | None = None,
    warm_up: WarmUpSettings | Table | None = None,
    codec: CodecSettings | Table | None = None,
    fleet: Sequence[FleetGroup | Table] = (),
    data: str = "",
    cache: str | Path | None = None,
    **more: Any,
) -> Run:
    """Trains a simulated fleet to the end of its run, or goes on with a folder's.

    Args:
        task: A `Task`, a shipped one's name, or ``package.module:object``.
        devices: The examples of each device, as `Examples`, a pair (inputs, targets) or
            a torch ``Dataset`` of such pairs; or how many devices a shipped data set is
            cut up for; or the rows of a fleet (board, density, share), which then has
            as many devices as a simulation has unless it says otherwise.
        evaluation: What models are scored on, where `devices` are examples; a shipped
            data set brings its own.
        algorithm: One of this package's, such as ``coordinator.flash()``; its name; or
            ``package.module:object``.
        rounds: Rounds after the warm-up.
        densities: The run's densities, each in (0, 1].
        cohort: Updates per round; None for 10, or all of fewer devices.
        seed: Of partition, masks, weights, cohorts and example orders.
        workers: Processes that train; 0 trains in this one, which a task defined in a
            notebook or in ``__main__`` needs. The result does not depend on it.
        folder: The run's folder, which the same call goes on with; None for a new
            temporary one, which stays.
        training: Local training, or some of its keys.
        warm_up: The warm-up, or some of its keys.
        codec: How values travel, or some of its keys.
        fleet: The rows of a fleet, where `devices` says how many there are.
        data: A shipped data set; empty for that of the task's name.
        cache: Where fetched and cut up data sets stay; None for ``~/.cache``.
        **more: Other keys of a simulation's settings, such as ``alpha``.

    Returns:
        The run's history, models and folder.

    Raises:
        SettingsError: Names the argument and what was expected.
        DataError: If the examples are none, or do not fit the task.
        TaskError: If there is no such task, or workers cannot import it.
        StateError: If the folder holds a run with other settings or examples.
        EdgeError: As the run itself ends.
    """
    how = _algorithm(algorithm)
    what = load_task(task) if isinstance(task, str) else _task(task)
    reference = task if isinstance(task, str) else _reference(task)
    if not isinstance(workers, Integral) or isinstance(workers, bool) or workers < 0:
        raise SettingsError(
            f"workers is {workers!r}; it is 0 or a number of processes",
            remedy="workers=0 trains in this process.",
        )
    if workers:
        _check_importable(reference, what)
    found = _devices(devices)
    given: dict[str, Any] = {
        "task": reference,
        "algorithm": algorithm if isinstance(algorithm, str) else name_of(how),
        "rounds": rounds,
        "densities": densities,
        "seed": seed,
        **more,
    }
    tables = {"training": training, "warm_up": warm_up, "codec": codec}
    given |= {k: _plain(v) for k, v in tables.items() if v is not None}
    rows = [d for d in found if isinstance(d, FleetGroup | Mapping)]
    rows = rows if len(rows) == len(found) else []
    given["fleet"] = [_plain(group) for group in rows or _rows(fleet)]
    parts: list[Examples] = []
    scored: Examples | None = None
    if isinstance(devices, Integral) or rows:
        given["data"] = data or _data_of(reference, what)
        given |= {"devices": int(devices)} if isinstance(devices, Integral) else {}
        _check_no_evaluation(evaluation)
    else:
        if data:
            raise DataError(
                f"data is {data!r}, and devices hold examples of their own",
                remedy="Leave it out, or give the number of devices in their place.",
            )
        parts, scored = check_examples(found, evaluation)
        given |= {"devices": len(parts), "partitions": True, "folder": "."}
        what = read_as_partitions(what)
    settings = _settings(given)
    wanted = min(COHORT, settings.devices) if cohort is None else cohort
    settings = _settings({**given, "cohort": wanted})
    with as_arguments(CHAPTER):
        check_simulation(settings, how)
    where = a_path(folder or tempfile.mkdtemp(prefix="flash-edge-"), "folder")
    kept = None if cache is None else a_path(cache, "cache")
    log.info("the run's folder is %s", where)
    if scored is not None:
        _check_kind(where)
        place = write_examples(where, parts, scored)
        settings = msgspec.structs.replace(settings, folder=str(place.resolve()))
    open_workers: OpenWorkers = partial(in_process, task=what)
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        records = run.simulate(
            where,
            settings,
            worker_count=workers,
            open_workers=process_pool if workers else open_workers,
            task=what,
            algorithm=how,
            cache=kept,
        )
    return Run(where, what, settings, records)


def _devices(given: object) -> list[object]:
    """The devices one by one; none of a number."""
    if isinstance(given, Integral):
        return []
    if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
        return list(given)
    raise DataError(
        f"devices is one {type(given).__name__}, not a sequence",
        remedy="Give a list with one edge_sdk.Examples per device; of a dictionary "
        "list(devices.values()).",
    )


def _rows(fleet: object) -> list[object]:
    if isinstance(fleet, Iterable) and not isinstance(fleet, str | Mapping):
        return list(fleet)
    raise SettingsError(
        f"fleet is one {type(fleet).__name__}, not a sequence",
        remedy="Give a list of tables, such as [{'share': 1.0, 'density': 0.1}].",
    )


def _check_no_evaluation(evaluation: object) -> None:
    if evaluation is not None:
        raise DataError(
            "evaluation is given, and devices are those of a shipped data set",
            remedy="Leave it out: the data set has evaluation examples of its own.",
        )


def _check_kind(folder: Path) -> None:
    """Refuses to write examples into a folder whose run has others."""
    before = run.load_simulation(folder)
    if before is not None and not before.partitions:
        raise StateError(
            f"{folder} holds a simulation whose examples are not given as arrays",
            remedy="Choose another folder.",
        )


def _algorithm(given: Algorithm | str) -> Algorithm:
    if isinstance(given, str):
        with as_arguments(CHAPTER):
            return load_algorithm(given)
    return check_algorithm(given, "algorithm")


def _task(given: object) -> Task:
    if isinstance(given, Task):
        check_functions(given)
        return given
    raise TaskError(
        f"task is {a_type(given)}, not an edge_sdk.Task",
        remedy="Give a Task, a shipped one's name, or package.module:object.",
    )


def _reference(task: Task) -> str:
    """Name of a task that was given as an object, for settings and checkpoints."""
    found = reference_of(task) or f"{task.name} (an object)"
    return next((name for name, at in SHIPPED.items() if at == found), found)


def _check_importable(reference: str, task: Task) -> None:
    """Refuses a task that lives in this process only.

    Raises:
        TaskError: Names it, and what else to do.
    """
    module = reference.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if reference in SHIPPED or (":" in reference and module != "__main__" and file):
        return
    raise TaskError(
        f"task {task.name!r} ({reference}) is defined in this process only (in a "
        "notebook, at a prompt, in the script that runs, or in a function): workers "
        "are processes of their own and cannot import it",
        remedy="Give workers=0, which trains in this process; or put the task into a "
        "file of its own, such as my_task.py, and import it from there.",
    )


def _data_of(reference: str, task: Task) -> str:
    """The shipped data set that a task is trained on when it is given none."""
    if reference in DATASETS:
        return reference
    raise DataError(
        f"devices holds no examples, and task {task.name} has no data set of its name",
        remedy=f"Give the devices' Examples, or data= one of {', '.join(DATASETS)}.",
    )


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else msgspec.to_builtins(value)


def _builtin(given: Any) -> Any:
    """Plain numbers and lists of what numpy gives."""
    if isinstance(given, Mapping):
        return {key: _builtin(value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_builtin(value) for value in given]
    return given.tolist() if isinstance(given, np.generic | np.ndarray) else given


def _settings(given: Table) -> SimulationSettings:
    try:
        return msgspec.convert(_builtin(given), SimulationSettings)
    except msgspec.ValidationError as error:
        with as_arguments(CHAPTER):
            raise SettingsError(
                f"simulate: {explained(error, SimulationSettings)}"
            ) from error
