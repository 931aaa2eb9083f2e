"""The run's own log: FOLDER/coordinator.jsonl, whatever stderr was asked to show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

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
    files, wholes, inode = _opened(folder), [], 0
    if not files:
        raise StateError(
            f"{folder} has no log yet",
            remedy=f"It begins with: flash-coordinator run {folder}",
        )
    for file in files:
        with file:
            inode, content = _inode(file), file.read()
        wholes.append(content[: content.rfind(b"\n") + 1])
    lines = b"\n".join(wholes).split(b"\n")
    return list(_entries(lines, wanted)), (inode, len(wholes[-1]))


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
    (inode, offset), rest = start, b""
    files = _opened(folder)
    try:
        while files and inode in map(_inode, files[1:]):
            files.pop(0).close()
        if files and _inode(files[0]) == inode:
            files[0].seek(offset)
        while True:
            ended = over(LOOK_S)
            files += _newer(folder / LOG, files)
            for file in files:
                *lines, rest = (rest + file.read()).split(b"\n")
                yield from _entries(lines, wanted)
                if file is not files[-1]:
                    rest = b""  # a line that a crash cut off
            while len(files) > 1:
                files.pop(0).close()
            if ended:
                return
    finally:
        for file in files:
            file.close()


def _opened(folder: Path) -> list[BinaryIO]:
    """Both files, the older first; one that is away while they change is left out.

    The newer is opened first: what changes places between the two is then the older,
    and none is missed.
    """
    newer = _newer(folder / LOG, [])
    return _newer(folder / f"{LOG}.1", newer) + newer


def _newer(path: Path, known: list[BinaryIO]) -> list[BinaryIO]:
    """The file at `path`, unless it is away or a known one."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    if _inode(file) in map(_inode, known):
        file.close()
        return []
    return [file]


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


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
