"""Arguments of a program as a folder's ``run.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from coordinator.algorithms.base import Algorithm
from coordinator.settings import RunSettings, load_run
from device_profiles.toml_text import value_text
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import SettingsError, StateError
from edge_sdk.private_files import keep_private
from edge_sdk.tasks.reference import reference_of
from edge_sdk.tasks.task import SHIPPED, Task

__all__ = ["SETTINGS", "algorithm_name", "task_name", "write_settings"]

SETTINGS = "run.toml"


def task_name(given: object) -> str:
    """Reference of a task for ``run.toml``.

    Raises:
        SettingsError: If devices could not import it.
    """
    if isinstance(given, str):
        return given
    found = reference_of(given) if isinstance(given, Task) else None
    if found is None or found.startswith("__main__:"):
        raise SettingsError(
            f"task is a {type(given).__name__} that no module holds: devices could not "
            "import it",
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
    found = reference_of(given)
    if found is None or found.startswith("__main__:"):
        raise SettingsError(
            "algorithm is an object that no module holds: the coordinator's process "
            "could not import it",
            remedy="Give its name, such as 'flash-edge', or put it into a file and "
            "give 'my_file:object'.",
        )
    return found


def write_settings(folder: Path, given: Mapping[str, Any]) -> RunSettings:
    """The settings, written to the folder unless they stand there already."""
    values = msgspec.to_builtins(given, enc_hook=str)  # paths
    path = folder / SETTINGS
    try:
        msgspec.convert(values, RunSettings, dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"Federation: {error}",
            remedy="Correct the argument; docs/settings.md, 'A run', has all.",
        ) from error
    if path.exists():
        there = load_run(path)
        scratch = path.with_name(".run.new.toml")
    else:
        keep_private(folder, ("*",))
        there, scratch = None, path
    replace_file(scratch, _toml(values).encode())
    try:
        wanted = load_run(scratch)
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
