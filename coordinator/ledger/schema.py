"""The ledger's tables, and opening the database that holds them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from coordinator.ledger.database import damaged
from coordinator.ledger.device_rows import added_columns
from edge_sdk.errors import StateError

__all__ = [
    "SCHEMA_VERSION",
    "check_version",
    "columns_of",
    "open_to_read",
    "open_to_write",
]

SCHEMA_VERSION = 5
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
  name TEXT PRIMARY KEY, profile TEXT NOT NULL, examples INTEGER NOT NULL,
  density REAL, why TEXT NOT NULL DEFAULT '', version TEXT NOT NULL,
  engine TEXT NOT NULL DEFAULT '', sent INTEGER NOT NULL DEFAULT 0,
  received INTEGER NOT NULL DEFAULT 0, rss_mib INTEGER NOT NULL DEFAULT 0,
  pace TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '',
  last_seen TEXT NOT NULL, online INTEGER NOT NULL DEFAULT 0,
  phase TEXT NOT NULL DEFAULT '', celsius REAL, progress INTEGER);
CREATE TABLE IF NOT EXISTS rounds (
  no INTEGER PRIMARY KEY, phase TEXT NOT NULL, goal INTEGER NOT NULL,
  quorum INTEGER NOT NULL, rate REAL NOT NULL, base TEXT NOT NULL,
  model TEXT, note TEXT NOT NULL DEFAULT '', opened TEXT NOT NULL, closed TEXT);
CREATE TABLE IF NOT EXISTS tasks (
  id TEXT PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds(no),
  device TEXT NOT NULL, density REAL NOT NULL, phase TEXT NOT NULL,
  order_bytes BLOB NOT NULL, why TEXT NOT NULL DEFAULT '',
  base_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (round, device));
CREATE TABLE IF NOT EXISTS updates (
  task TEXT PRIMARY KEY REFERENCES tasks(id), round INTEGER NOT NULL,
  device TEXT NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
  examples INTEGER NOT NULL, norm REAL NOT NULL, metrics TEXT NOT NULL,
  frozen INTEGER NOT NULL DEFAULT 0,
  scale REAL NOT NULL DEFAULT 1, weight INTEGER NOT NULL DEFAULT 0,
  accepted TEXT NOT NULL, place INTEGER, UNIQUE (round, device));
CREATE INDEX IF NOT EXISTS updates_of_blob ON updates (blob);
CREATE TABLE IF NOT EXISTS refusals (
  device TEXT NOT NULL, verdict TEXT NOT NULL, count INTEGER NOT NULL,
  round INTEGER NOT NULL, why TEXT NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (device, verdict));
-- Added after 0.1.0, which does not read it; there a ledger is made to look at without.
CREATE TABLE IF NOT EXISTS standing (
  device TEXT PRIMARY KEY, joined INTEGER NOT NULL, failures REAL NOT NULL DEFAULT 0,
  until INTEGER, why TEXT NOT NULL DEFAULT '', said TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS scores (
  round INTEGER NOT NULL, density REAL NOT NULL, metrics TEXT NOT NULL,
  PRIMARY KEY (round, density));
CREATE TABLE IF NOT EXISTS folded (
  device TEXT NOT NULL, density REAL NOT NULL, asked INTEGER NOT NULL,
  accepted INTEGER NOT NULL, trained INTEGER NOT NULL, examples INTEGER NOT NULL,
  up_bytes INTEGER NOT NULL, down_bytes INTEGER NOT NULL, last INTEGER,
  PRIMARY KEY (device, density));
CREATE TABLE IF NOT EXISTS last_counted (
  device TEXT PRIMARY KEY, round INTEGER NOT NULL, task TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations (
  round INTEGER NOT NULL, density REAL NOT NULL, device TEXT NOT NULL,
  examples INTEGER NOT NULL, sums TEXT NOT NULL, metrics TEXT NOT NULL,
  why TEXT NOT NULL DEFAULT '', at TEXT NOT NULL,
  PRIMARY KEY (round, density, device));
CREATE TABLE IF NOT EXISTS secure (
  round INTEGER NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
  content BLOB NOT NULL, PRIMARY KEY (round, device, kind));
CREATE TABLE IF NOT EXISTS log (
  seq INTEGER PRIMARY KEY, round INTEGER NOT NULL, record TEXT NOT NULL, leaves TEXT,
  head BLOB NOT NULL, signature BLOB NOT NULL, certificate TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS log_contents (
  digest TEXT PRIMARY KEY, content BLOB NOT NULL, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS offers (
  task TEXT PRIMARY KEY, packet BLOB NOT NULL, certificate TEXT NOT NULL);
INSERT INTO meta VALUES ('schema', '5') ON CONFLICT DO NOTHING;
"""


def open_to_write(path: Path) -> sqlite3.Connection:
    """The database, made if it is not there; what is committed survives a power cut.

    Raises:
        sqlite3.Error: If it is no database or cannot be written.
        StateError: If it is of another version.
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # At once: who looks on meanwhile sees all of it or nothing.
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        check_version(db, path.parent)
        _add_columns(db)
    except BaseException:
        db.close()
        raise
    return db


def _add_columns(db: sqlite3.Connection) -> None:
    """Adds the columns that the version that made the tables lacks."""
    known = columns_of(db, "devices")
    for name, default in added_columns().items():
        if name not in known:
            (text,) = db.execute("SELECT quote(?)", (default,)).fetchone()
            db.execute(f"ALTER TABLE devices ADD COLUMN {name} DEFAULT {text}")
    if "place" not in columns_of(db, "updates"):  # each was a file of its own
        db.execute("ALTER TABLE updates ADD COLUMN place INTEGER")


def columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    """Names of a table's columns."""
    return {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}


def open_to_read(path: Path) -> sqlite3.Connection:
    """The database to look at, also while a coordinator writes.

    Raises:
        sqlite3.Error: If it cannot be read.
        StateError: If it is of another version.
    """
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",  # quotes a # or ? in the folder
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        db.row_factory = sqlite3.Row
        check_version(db, path.parent)
    except BaseException:
        db.close()
        raise
    return db


def check_version(db: sqlite3.Connection, folder: Path) -> None:
    """Refuses a ledger that another version wrote.

    Raises:
        StateError: Then, and where a coordinator is making it at this moment.
    """
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        raise StateError(
            f"the ledger in {folder} is being made",
            remedy="Give the command again in a moment; it has just begun.",
        )
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    try:
        found = None if row is None else json.loads(row["value"])
    except (TypeError, ValueError) as error:
        raise damaged(folder / "ledger.sqlite", error) from error
    if found != SCHEMA_VERSION:
        raise StateError(
            f"the ledger in {folder} has schema {found}, this version {SCHEMA_VERSION}",
            remedy="Use the version of flash-edge that wrote it, or a new folder.",
        )
