"""Writing of data sets: whole files or none, one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.checksums import file_digest
from edge_sdk.errors import CheckpointError, DataError

__all__ = ["array_damage", "exclusive", "sha256_of", "write_file"]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder alone, against other processes and other threads; waits for it.

    The lock is the kernel's and goes with the process: a killed writer blocks nobody.

    Raises:
        DataError: If the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be used: {error}",
            remedy="Name a folder that you may write to.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """`edge_sdk.checkpoint.replace_file`, failing as the data room fails.

    Raises:
        DataError: If the folder cannot be written, for example a full disk.
    """
    try:
        replace_file(path, content)
    except (CheckpointError, OSError) as error:
        raise DataError(
            str(error),
            remedy="Check the folder's permissions and the free space on its disk.",
        ) from error


def array_damage(error: BaseException) -> str:
    """The reason for which numpy cannot read a file of arrays, in words.

    What is no such file numpy takes for a pickle, and advises to trust it.
    """
    if str(error).startswith("Object arrays"):
        return "it holds objects of Python: save arrays of numbers"
    if "pickle" in str(error):
        return "it is no file of arrays (.npy, .npz)"
    named = isinstance(error, KeyError) and error.args  # str() puts it into quotes
    return str(error.args[0] if named else error)


def sha256_of(path: Path) -> str | None:
    """The file's SHA-256 in hex, or None if there is no readable file."""
    try:
        return file_digest(path)
    except OSError:
        return None
