"""The run's own log: FOLDER/coordinator.jsonl, whatever stderr was asked to show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edge_sdk.errors import StateError
from edge_sdk.terminal import log_to_file, plain

__all__ = ["LOG", "Wanted", "follow_log", "keep_log", "line_of", "read_log"]

Place: TypeAlias = "tuple[int, int]"  # a file's inode, and bytes of it
LOG = "coordinator.jsonl"
LEVELS = ("debug", "info", "warning", "error", "critical")
LOOK_S = 0.2


@dataclass(frozen=True)
class Wanted:
    """Filter of log lines.

    Attributes:
        device: Of this device only.
        round_no: Of this round only.
        level: From this level on.
    """

    device: str | None = None
    round_no: int | None = None
    level: str = "debug"

    def has(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a line passes the filter.

        Example:
            >>> Wanted(device="pi-1").has({"device": "pi-1", "level": "info"})
            True
        """
        level = str(entry.get("level"))
        return (
            self.device in (None, entry.get("device"))
            and self.round_no in (None, entry.get("round"))
            and LEVELS.index(self.level)
            <= (LEVELS.index(level) if level in LEVELS else len(LEVELS))
        )


@contextmanager
def keep_log(folder: Path) -> Iterator[None]:
    """All that this process logs goes to the run's log too, and how it ends.

    Two files of 8 MiB are kept.

    Raises:
        StateError: If the log cannot be written.
    """
    try:
        keeping = log_to_file(folder / LOG)
    except OSError as error:
        raise StateError(f"the log of {folder} cannot be written: {error}") from error
    with keeping:
        yield


def read_log(folder: Path, wanted: Wanted) -> tuple[list[dict[str, Any]], Place]:
    """The lines of a run's log, the oldest first; a line cut off by a crash is skipped.

    Returns:
        The lines, and where `follow_log` goes on.

    Raises:
        StateError: If there is no log.
    """
    path = folder / LOG
    if not path.exists():
        raise StateError(
            f"{folder} has no log yet",
            remedy=f"It begins with: flash-coordinator run {folder}",
        )
    old = path.with_name(f"{LOG}.1")
    with path.open("rb") as file:
        inode, content = os.fstat(file.fileno()).st_ino, file.read()
    whole = content[: content.rfind(b"\n") + 1]
    before = old.read_bytes() if old.exists() else b""
    return list(_entries((before + whole).split(b"\n"), wanted)), (
        inode,
        len(whole),
    )


def follow_log(
    folder: Path, wanted: Wanted, start: Place, over: Callable[[float], bool]
) -> Iterator[dict[str, Any]]:
    """The lines that come from there on, also over a change of files.

    Args:
        folder: The run's folder.
        wanted: Which lines.
        start: Where to begin, as `read_log` says.
        over: Waits for so many seconds; whether to end.
    """
    path = folder / LOG
    yield from _entries(_left_behind(path, start), wanted)
    file, rest = path.open("rb"), b""
    if os.fstat(file.fileno()).st_ino == start[0]:
        file.seek(start[1])
    try:
        while True:
            ended = over(LOOK_S)
            here = os.fstat(file.fileno())
            moved = path.exists() and not os.path.samestat(path.stat(), here)
            *lines, rest = (rest + file.read()).split(b"\n")
            yield from _entries(lines, wanted)
            if ended:
                return
            if moved:
                file.close()
                file, rest = path.open("rb"), b""
    finally:
        file.close()


def _left_behind(path: Path, start: Place) -> list[bytes]:
    """Lines that a rotated file got between reading and following."""
    old, (inode, offset) = path.with_name(f"{LOG}.1"), start
    if not old.exists() or old.stat().st_ino != inode:
        return []
    return old.read_bytes()[offset:].split(b"\n")


def line_of(entry: Mapping[str, Any]) -> str:
    """A line for people: UTC clock, level, logger, message.

    Example:
        >>> at = "2026-01-05T10:00:01.500Z"
        >>> line_of({"time": at, "level": "info", "logger": "a.b", "message": "hi"})
        '2026-01-05 10:00:01 INFO    a.b: hi'
    """
    at = str(entry.get("time", ""))[:19].replace("T", " ")
    level = str(entry.get("level", "")).upper()
    said = plain(f"{entry.get('logger', '')}: {entry.get('message', '')}")
    trace = (
        f"\n{plain(str(entry['traceback']), lines=True)}"
        if "traceback" in entry
        else ""
    )
    return f"{at} {level:<7} {said}{trace}"


def _entries(lines: Iterable[bytes], wanted: Wanted) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and wanted.has(found):
            yield found
