"""Errors of SQLite that end the work, in words, each with a remedy."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from edge_sdk.errors import StateError, disk_remedy

__all__ = ["damaged", "database_error"]

PUT_BACK = (
    "Stop every process that has it open, then put a copy of the whole folder back; "
    "without one, start in a new folder."
)


def database_error(path: Path, error: sqlite3.Error) -> StateError:
    """The error of a database that cannot be used, with the remedy for its cause.

    By SQLite's words: Python 3.10 has no codes, and the words are SQLite's own table.

    Args:
        path: The database.
        error: What SQLite said.
    """
    said = str(error)
    if "JSON" in said:
        return damaged(path, said)
    for words, (what, remedy) in _causes(path).items():
        if any(word in said for word in words.split("|")):
            return StateError(f"{path} {what}: {said}", remedy=remedy)
    return StateError(f"{path} refused: {said}", remedy=PUT_BACK)


def _causes(path: Path) -> dict[str, tuple[str, str]]:
    """Causes and remedies, by SQLite's own words."""
    closed = _why_closed(path)
    return {
        "not a database": (
            "is no SQLite database, as another program's file there or an overwritten "
            "beginning",
            PUT_BACK,
        ),
        "malformed|corrupt": (
            "is damaged",
            "Put a copy of the whole folder back. Without one, stop every process that "
            f"has it open and save what can be read: sqlite3 {path} .recover | sqlite3 "
            "saved.sqlite, then put that in its place.",
        ),
        "is full": (
            "could not be written",
            disk_remedy(OSError(errno.ENOSPC, "full")),
        ),
        "readonly|unable to open|permission|access": (
            f"cannot be opened ({os.strerror(closed)})",
            disk_remedy(OSError(closed, "closed")),
        ),
        "locked|busy": (
            "is held by another process",
            "Close what has it open, such as a database browser or a backup.",
        ),
        "I/O": ("lies on a disk that fails", disk_remedy(OSError(errno.EIO, "fails"))),
        "constraint": (
            "refused what was to be written",
            "Report the message: this is a bug of flash-edge. The folder is unharmed.",
        ),
        "no such table|no such column": (
            "is of another version, or was damaged",
            f"Use the version of flash-edge that wrote it. Else: {PUT_BACK}",
        ),
    }


def damaged(path: Path, what: object) -> StateError:
    """The error of a row whose content cannot be: the file can be read, it cannot.

    Args:
        path: The database.
        what: What is wrong with the content.
    """
    return StateError(
        f"a row of {path} is damaged, or was edited by hand: {what}",
        remedy=PUT_BACK,
    )


def _why_closed(path: Path) -> int:
    """The error number of the file system for a database that SQLite cannot write."""
    place = path if path.exists() else path.parent
    try:
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return errno.EROFS
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EISDIR if path.is_dir() else errno.EACCES
