"""Logs that a child writes by itself, such as mosquitto's: kept small from outside.

The child holds its log open for appending, so the file is emptied, not moved: the next
line begins at its start. What was in it is beside it, in one file of the same name with
``.1``. A line that comes between the copy and the emptying is lost; a disk that anybody
who knocks at a port can fill is worse.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from edge_sdk.terminal.logs import FILE_BYTES

__all__ = ["keep_small", "last_words"]

SHOWN = 800  # characters of a log in an error


def keep_small(log: Path, most: int = FILE_BYTES) -> bool:
    """Puts what a log holds aside if that is too much; whether it was.

    Never raises: a log is not worth the run, and on a full disk the copy is left out.

    Args:
        log: The file; it need not be there.
        most: Bytes. It may grow further between two calls.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size <= most:
            return False
        aside = log.with_name(f"{log.name}.1")
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
            shutil.copyfile(log, aside)
            aside.chmod(0o600)
        os.truncate(log, 0)
        return True
    return False


def last_words(path: Path) -> str:
    """The end of a log, from its last error on where it has one."""
    said = path.read_text("utf-8", "replace") if path.exists() else ""
    lines = said.strip().splitlines()
    errors = (i for i, line in enumerate(lines) if line.startswith("error: "))
    return " ".join(lines[max(errors, default=0) :])[-SHOWN:] or "it said nothing"
