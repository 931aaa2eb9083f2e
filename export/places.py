"""Places of exported files: names, folders and paths that can be, before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edge_sdk.errors import ExportError, disk_remedy

__all__ = ["check_name", "default_file", "folder_of", "path_of", "suffix_of"]


def suffix_of(name: str) -> str:
    """Suffix of a format's files.

    Raises:
        ExportError: If there is no such format.
    """
    from export.targets.table import find_target  # noqa: PLC0415 - imports onnx

    return find_target(name).suffix


def default_file(name: str, format: str) -> Path:  # noqa: A002
    """Default name of a model's file of a format."""
    return Path(f"{name}.{format}{suffix_of(format)}")


def path_of(given: object) -> Path:
    """A place in the file system, as `out` names it."""
    if not isinstance(given, str | os.PathLike) or "\0" in os.fspath(given):
        raise ExportError(
            f"out is {given!r}, which is no path",
            remedy="Name a folder with formats=, a file with format=, such as 'out/'.",
        )
    return Path(given).expanduser()


def check_name(name: object) -> None:
    """Refuses a name that no file can have.

    Raises:
        ExportError: Then.
    """
    if not isinstance(name, str) or not name or {os.sep, "\0"} & set(name):
        raise ExportError(
            f"name is {name!r}, which is no name of a file",
            remedy="Give a short name, such as 'digits'.",
        )


def folder_of(out: Path | str, name: str, wanted: Sequence[str]) -> Path:
    """The folder, made before anything takes time; no file of it is a folder."""
    folder = path_of(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be made a folder: {error}", remedy=disk_remedy(error)
        ) from error
    for file in (folder / default_file(name, one) for one in wanted):
        if file.is_dir():
            raise ExportError(
                f"{file} is a folder", remedy="Move it away, or give another name=."
            )
    return folder
