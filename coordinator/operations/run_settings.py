"""Arguments of a program as a folder's ``run.toml``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.load import check_algorithm
from coordinator.settings import DEVICES, RunSettings, load_run
from device_profiles.toml_text import quoted, value_text
from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.partition import save_once, save_partition
from edge_sdk.datasets.prepare import EVALUATION_FOLDER
from edge_sdk.datasets.rows import examples_of
from edge_sdk.device.probe.board import likely_board, read_board
from edge_sdk.errors import (
    DataError,
    IdentityError,
    SettingsError,
    StateError,
    TaskError,
    a_type,
)
from edge_sdk.private_files import keep_private, make_private
from edge_sdk.settings import Name, explained, seen_from
from edge_sdk.tasks.reference import reference_of
from edge_sdk.tasks.task import SHIPPED, Examples, Task, load_task
from edge_sdk.transport.configured import broker_address

__all__ = [
    "SETTINGS",
    "algorithm_name",
    "ascending",
    "check_device",
    "check_hours",
    "evaluation_of",
    "keep_evaluation",
    "plain_line",
    "task_name",
    "write_settings",
]

SETTINGS = "run.toml"
MOST_HOURS = 87_600  # as `flash-coordinator enroll` has it
_READERS = (
    "Let the task read what Examples are saved as: eval_data=partial(load_partition, "
    "part='eval'), of edge_sdk.datasets.partition; or name a folder of its own form."
)


def task_name(given: object) -> str:
    """Reference of a task for ``run.toml``.

    Raises:
        SettingsError: If devices could not import it.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, Task):
        raise SettingsError(
            f"task is {a_type(given)}, not an edge_sdk.Task",
            remedy="Give a Task of a module, a shipped one's name, or "
            "package.module:object.",
        )
    found = reference_of(given)
    if found is None or found.startswith("__main__:"):
        raise SettingsError(
            "task is a Task that no module holds: devices could not import it",
            remedy="Put it into a file, such as my_task.py, and give 'my_task:task'; "
            "the devices need that file too.",
        )
    return next((name for name, at in SHIPPED.items() if at == found), found)


def algorithm_name(given: Algorithm | str) -> str:
    """Reference of an algorithm for ``run.toml``.

    Raises:
        SettingsError: If the coordinator's process could not import it.
    """
    if isinstance(given, str):
        return given
    found = reference_of(check_algorithm(given, "algorithm"))
    if found is None or found.startswith("__main__:"):
        raise SettingsError(
            "algorithm is an object that no module holds: the coordinator's process "
            "could not import it",
            remedy="Give its name, such as 'flash-edge', or put it into a file and "
            "give 'my_file:object'.",
        )
    return found


def ascending(densities: object) -> object:
    """Densities from the smallest on; what is none stays for the settings to refuse."""
    try:
        return sorted(float(density) for density in densities)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return densities


def evaluation_of(
    folder: Path, task: Task | str, given: object
) -> tuple[Path | str, Examples | None]:
    """The folder of the evaluation examples, and those that it is to hold.

    Args:
        folder: The run's.
        task: The run's.
        given: A folder, "devices" for tests on devices alone, or examples in any form
            that `simulate` takes.

    Raises:
        SettingsError: If nothing is given.
        DataError: If it is neither, or the task does not read such a folder.
        TaskError: If they do not fit the task.
    """
    if isinstance(given, str) and given == DEVICES:
        return DEVICES, None
    if isinstance(given, str | Path):
        return seen_from(Path(), given), None
    if given is None:
        raise SettingsError(
            "evaluation is not given",
            remedy="Give edge_sdk.Examples, or the folder that the task reads its "
            "evaluation examples from: it holds eval.npz.",
        )
    examples = examples_of(given, "evaluation")
    found = load_task(task) if isinstance(task, str) else task
    with TemporaryDirectory(prefix="flash-edge-") as scratch:
        save_partition(Path(scratch), examples, part="eval")
        try:
            read = found.read_eval(Path(scratch))
        except (DataError, TaskError) as error:
            said = str(error).replace(scratch, "evaluation")
            raise type(error)(said, remedy=error.help) from error
    if len(read) != len(examples):
        raise DataError(
            f"task {found.name} reads {len(read)} of {len(examples)} evaluation "
            "examples back",
            remedy=_READERS,
        )
    return folder / EVALUATION_FOLDER, examples


def keep_evaluation(place: Path, examples: Examples) -> None:
    """Saves the examples of a run, or finds that it has them.

    Raises:
        StateError: If the run began with others.
    """
    make_private(place)
    if other := save_once(place, examples, part="eval"):
        raise StateError(
            f"{place.parent} holds a run with other {other} of evaluation",
            remedy="Give the examples that it began with, or another folder.",
        )


def check_device(name: object) -> None:
    """Refuses what cannot be a device's name.

    Raises:
        IdentityError: Then.
    """
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        raise IdentityError(
            f"{name!r} is no device's name: {error}",
            remedy="Use 2 to 63 lower-case letters, digits and hyphens, such as pi-1.",
        ) from error


def check_hours(hours: object) -> None:
    """Refuses what cannot be the life of a token.

    Raises:
        SettingsError: Then.
    """
    if not isinstance(hours, Real) or not 0 < float(hours) <= MOST_HOURS:
        raise SettingsError(
            f"hours is {hours!r}, not a time of up to ten years",
            remedy="Give the hours that an unused token works, such as 24.",
        )


def plain_line(settings: RunSettings, broker: str, device: str) -> str:
    """Shell line that writes a device's settings, and runs it without identity.

    Raises:
        StateError: If there is no broker yet.
    """
    if not broker:
        raise StateError(
            "the federation has no broker yet",
            remedy="Start it first: federation.start(), or inside the with block.",
        )
    own = {
        "name": device,
        "federation": settings.federation,
        "broker": broker,
        "task": settings.task,
        "data": "data",
        "state": "state",
        "profile": likely_board(read_board()),
    }
    lines = (shlex.quote(f"{key} = {quoted(value)}") for key, value in own.items())
    written = " ".join(lines)
    return f"printf '%s\\n' {written} > device.toml && flash-edge run device.toml"


def write_settings(folder: Path, given: Mapping[str, Any]) -> RunSettings:
    """The settings, written to the folder unless they stand there already."""
    values = msgspec.to_builtins(given, enc_hook=str)  # paths
    path = folder / SETTINGS
    try:
        msgspec.convert(values, RunSettings, dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        raise SettingsError(f"Federation: {explained(error, RunSettings)}") from error
    if path.exists():
        there = load_run(path)
        scratch = path.with_name(".run.new.toml")
    else:
        keep_private(folder, ("*",))
        there, scratch = None, path
    replace_file(scratch, _toml(values).encode())
    try:
        wanted = load_run(scratch)
        if wanted.broker:
            broker_address(wanted)
    except BaseException:
        scratch.unlink()
        raise
    if there is None:
        return wanted
    scratch.unlink()
    old, new = msgspec.structs.asdict(there), msgspec.structs.asdict(wanted)
    changed = sorted(key for key in old if old[key] != new[key])
    if changed:
        raise StateError(
            f"{folder} holds a run with another {changed[0]}: {old[changed[0]]!r}, not "
            f"{new[changed[0]]!r}",
            remedy="Give the same arguments, none but the folder, or another folder.",
        )
    return there


def _toml(values: Mapping[str, Any]) -> str:
    """Plain values as TOML: keys of the file, then its tables."""
    flat = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines = [f"{k} = {value_text(v)}" for k, v in flat.items() if v is not None]
    for key, table in values.items():
        if isinstance(table, Mapping):
            lines += [
                f"\n[{key}]",
                *(f"{k} = {value_text(v)}" for k, v in table.items()),
            ]
    return "\n".join(lines) + "\n"
