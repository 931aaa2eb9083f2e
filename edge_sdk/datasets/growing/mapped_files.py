"""`MappedFiles`: the files that examples are mapped from; are they still whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_sdk.errors import DataError
from edge_sdk.tasks.arrays import check_present, map_of
from edge_sdk.tasks.task import Examples

__all__ = ["MappedFiles"]


class _Seen(NamedTuple):
    """One map, and which file its path named when it was made, of which time."""

    array: np.memmap[Any, Any]
    path: Path
    file: tuple[int, int]
    at: tuple[int, int]


class MappedFiles:
    """The files behind examples that are memory maps.

    A file that is removed, or replaced by another of its name, stays whole for who has
    mapped it. One that is written over or cut in place does not: its examples are
    others, or none.

    Args:
        examples: As they were just read.
    """

    def __init__(self, *examples: Examples | None) -> None:
        self._seen: list[_Seen] = []
        for one in examples:
            for array in () if one is None else (one.inputs, one.targets):
                whole = map_of(array)
                if whole is None or whole.filename is None:
                    continue
                path = Path(str(whole.filename))
                try:
                    stat = path.stat()
                except OSError:  # removed already: nobody writes into it any more
                    continue
                file, at = _of(stat)
                self._seen.append(_Seen(whole, path, file, at))

    def spoilt(self) -> str:
        """Name of a file that was written over or cut in place; empty for none."""
        for one in self._seen:
            try:
                check_present(one.array)
                file, at = _of(one.path.stat())
            except DataError:
                return str(one.path)
            except OSError:
                continue
            if file == one.file and at != one.at:
                return str(one.path)
        return ""


def _of(stat: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Identity of a file, and what changes when it is written."""
    return (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)
