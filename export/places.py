"""Places of exported files: names, folders and paths that can be, before any work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from edge_sdk.errors import ExportError, disk_remedy
from edge_sdk.infer.compressed import SUFFIX, is_compressed, require_zstd

if os.name == "posix":
    import fcntl

__all__ = [
    "Layer",
    "beside",
    "check_layer",
    "check_name",
    "default_file",
    "folder_of",
    "path_of",
    "scratch_beside",
    "suffix_of",
    "with_layer",
]

Layer: TypeAlias = Literal["zstd"]


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


def beside(model: object, name: str) -> Path | None:
    """Default file of a checkpoint's export: beside it; None of what has no file."""
    if not isinstance(model, str | Path):
        return None
    return Path(model).with_suffix(f".{name}{suffix_of(name)}")


def check_layer(layer: object) -> None:
    """Refuses a layer of compression that there is not, or that cannot be made here.

    Raises:
        DependencyError: If its library is not installed.
        ExportError: If there is no such layer.
    """
    if layer not in {None, "zstd"}:
        raise ExportError(
            f"there is no compression {layer!r}",
            remedy="Take compress='zstd', or leave it out.",
        )
    if layer is not None:
        require_zstd("a zstd layer cannot be made")


def with_layer(file: Path, layer: Layer | None) -> Path:
    """The file's name with the suffix of its layer; as it is without one."""
    if layer is None or is_compressed(file):
        return file
    return file.with_name(file.name + SUFFIX)


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


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A folder on the target's disk to fill before it is put in place.

    Those that killed commands have left for the same target are removed once another
    has succeeded: until then, one may hold what was at the target before.

    Args:
        target: What is to be written; its parent exists.
    """
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    prefix = f".bundle-{digest}-"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as name:
        scratch = Path(name)
        with _held(scratch):
            yield scratch
    for left in target.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _held(left):
            shutil.rmtree(left)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds a folder's lock; OSError if another command does."""
    if os.name != "posix":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
