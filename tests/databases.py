"""A database opened for a moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["opened"]


@contextmanager
def opened(path: Path | str) -> Iterator[sqlite3.Connection]:
    """A connection; what was changed is committed, and the file closed.

    ``with sqlite3.connect(...)`` alone commits and leaves it open until the garbage
    collector comes by: a test that polls so holds a thousand files on a slow machine.
    """
    uri = str(path).startswith("file:")
    with closing(sqlite3.connect(path, uri=uri)) as db, db:
        yield db
