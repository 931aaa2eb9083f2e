"""Base of every part of the ledger: a connection and its commits."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coordinator.ledger.blobs import Blobs
from coordinator.ledger.commits import Commits
from edge_sdk.json_text import to_json

__all__ = ["Pages", "now"]

FARTHEST_S = 1e9  # thirty years; later instants are not told apart


class Pages:
    """Base of the ledger's parts, and its plain values.

    Args:
        folder: The run's folder.
        db: Its database.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = db
        self._blobs = Blobs(folder / "blobs")
        self._commits = Commits(folder, db, self._blobs)

    def get(self, key: str) -> Any:
        """A stored value, or None."""
        row = self._db.execute(
            "SELECT value FROM meta WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else json.loads(row["value"])

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        with self._commits.alone() as db:
            db.execute("REPLACE INTO meta VALUES (?, ?)", (key, to_json(value)))


def now(later_s: float = 0.0) -> str:
    """Wall time for people, or so many seconds later; no decision reads it."""
    # A ledger may hold a deadline of thousands of years that a device once claimed.
    at = datetime.now(timezone.utc) + timedelta(seconds=min(later_s, FARTHEST_S))
    return at.isoformat(timespec="milliseconds")
