"""The coordinator's durable memory: SQLite, and blobs as files named by their SHA-256.

Every method that changes something is one transaction, committed before it returns
(WAL, synchronous=FULL). What is accepted here is what a receipt may promise.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from coordinator.rounds import Phase, TaskPhase
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import StateError

if os.name == "posix":
    import fcntl

__all__ = ["Ledger", "RoundRow", "TaskRow", "UpdateRow", "open_ledger", "read_ledger"]

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
  name TEXT PRIMARY KEY, profile TEXT NOT NULL, examples INTEGER NOT NULL,
  density REAL, why TEXT NOT NULL DEFAULT '', version TEXT NOT NULL,
  engine TEXT NOT NULL DEFAULT '', sent INTEGER NOT NULL DEFAULT 0,
  received INTEGER NOT NULL DEFAULT 0, rss_mib INTEGER NOT NULL DEFAULT 0,
  pace TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '',
  last_seen TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
  no INTEGER PRIMARY KEY, phase TEXT NOT NULL, goal INTEGER NOT NULL,
  quorum INTEGER NOT NULL, rate REAL NOT NULL, base TEXT NOT NULL,
  model TEXT, note TEXT NOT NULL DEFAULT '', opened TEXT NOT NULL, closed TEXT);
CREATE TABLE IF NOT EXISTS tasks (
  id TEXT PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds(no),
  device TEXT NOT NULL, density REAL NOT NULL, phase TEXT NOT NULL,
  order_bytes BLOB NOT NULL, why TEXT NOT NULL DEFAULT '', UNIQUE (round, device));
CREATE TABLE IF NOT EXISTS updates (
  task TEXT PRIMARY KEY REFERENCES tasks(id), round INTEGER NOT NULL,
  device TEXT NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
  examples INTEGER NOT NULL, norm REAL NOT NULL, metrics TEXT NOT NULL,
  frozen INTEGER NOT NULL DEFAULT 0, accepted TEXT NOT NULL, UNIQUE (round, device));
CREATE TABLE IF NOT EXISTS refusals (
  device TEXT NOT NULL, round INTEGER NOT NULL, verdict TEXT NOT NULL,
  why TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scores (
  round INTEGER NOT NULL, density REAL NOT NULL, metrics TEXT NOT NULL,
  PRIMARY KEY (round, density));
"""


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round as recorded."""

    no: int
    phase: Phase
    goal: int
    quorum: int
    rate: float
    base: str
    model: str | None
    note: str


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One device's task as recorded; `order_bytes` is the packed `TaskOrder`."""

    id: str
    round_no: int
    device: str
    density: float
    phase: TaskPhase
    order_bytes: bytes


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """One accepted update; the blob is a file of that name."""

    task: str
    device: str
    density: float
    blob: str
    examples: int
    metrics: dict[str, float]


class Ledger:
    """One run's ledger; made by `open_ledger` or, to look only, `read_ledger`."""

    def __init__(self, folder: Path, base: sqlite3.Connection, lock: Any) -> None:
        self.folder = folder
        self._db, self._lock = base, lock
        self._db.row_factory = sqlite3.Row

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StateError(f"the ledger in {self.folder} refused: {error}") from error
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # -- meta --------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """A stored value, or None."""
        row = self._db.execute(
            "SELECT value FROM meta WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else json.loads(row["value"])

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        with self._write() as db:
            db.execute("REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def next_epoch(self) -> int:
        """This coordinator's epoch: one more than the last one's.

        A new run starts at the minutes since 2020 instead of 1: devices are deaf to
        epochs below the newest they heard, and task ids are made from it, so a second
        run with the same devices must not start where the first one did.
        """
        epoch = int(self.get("epoch") or _first_epoch()) + 1
        self.put("epoch", epoch)
        return epoch

    # -- devices -----------------------------------------------------------------------

    def see_device(
        self, name: str, *, profile: Mapping[str, Any], examples: int, version: str
    ) -> None:
        """A device said hello."""
        with self._write() as db:
            db.execute(
                "INSERT INTO devices (name, profile, examples, version, last_seen) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "profile = excluded.profile, examples = excluded.examples, "
                "version = excluded.version, last_seen = excluded.last_seen",
                (name, json.dumps(profile), examples, version, _now()),
            )

    def assign(self, name: str, density: float | None, why: str) -> None:
        """The density a device got, and why."""
        with self._write() as db:
            db.execute(
                "UPDATE devices SET density = ?, why = ? WHERE name = ?",
                (density, why, name),
            )

    def pace(self, name: str, why: str) -> None:
        """Why a device does only a part of a round; empty while it does all."""
        with self._write() as db:
            db.execute("UPDATE devices SET pace = ? WHERE name = ?", (why, name))

    def note(self, name: str, said: str) -> None:
        """What a device says that it waits for; empty while it works."""
        if said != self.note_of(name):
            with self._write() as db:
                db.execute("UPDATE devices SET note = ? WHERE name = ?", (said, name))

    def note_of(self, name: str) -> str:
        """What a device said last that it waits for."""
        row = self._db.execute(
            "SELECT note FROM devices WHERE name = ?", (name,)
        ).fetchone()
        return "" if row is None else str(row["note"])

    def peaks(self) -> dict[str, float]:
        """Most memory that each device reported with an update, MiB."""
        rows = self._db.execute(
            "SELECT device, max(json_extract(metrics, '$.peak_mib')) AS peak "
            "FROM updates GROUP BY device"
        ).fetchall()
        return {r["device"]: float(r["peak"]) for r in rows if r["peak"] is not None}

    def count_traffic(
        self, name: str, *, sent: int, received: int, rss_mib: int, engine: str
    ) -> None:
        """What a device says it sent and received since it was installed."""
        with self._write() as db:
            db.execute(
                "UPDATE devices SET sent = max(sent, ?), received = max(received, ?), "
                "rss_mib = max(rss_mib, ?), "
                "engine = CASE WHEN ? = '' THEN engine ELSE ? END, last_seen = ? "
                "WHERE name = ?",
                (sent, received, rss_mib, engine, engine, _now(), name),
            )

    def devices(self) -> list[dict[str, Any]]:
        """Every device ever seen, by name."""
        rows = self._db.execute("SELECT * FROM devices ORDER BY name").fetchall()
        return [dict(row) | {"profile": json.loads(row["profile"])} for row in rows]

    # -- rounds ------------------------------------------------------------------------

    def plan_round(
        self, no: int, *, goal: int, quorum: int, rate: float, base: str
    ) -> None:
        """A new round; planning one again replaces a plan that issued no task."""
        with self._write() as db:
            db.execute(
                "INSERT INTO rounds (no, phase, goal, quorum, rate, base, opened) "
                "VALUES (?, 'plan', ?, ?, ?, ?, ?) ON CONFLICT (no) DO UPDATE SET "
                "goal = excluded.goal, quorum = excluded.quorum, rate = excluded.rate, "
                "base = excluded.base WHERE phase = 'plan'",
                (no, goal, quorum, rate, base, _now()),
            )

    def issue_tasks(self, no: int, tasks: list[TaskRow]) -> None:
        """The round's tasks, before any of them is sent."""
        with self._write() as db:
            db.executemany(
                "INSERT INTO tasks (id, round, device, density, phase, order_bytes) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (t.id, no, t.device, t.density, t.phase.value, t.order_bytes)
                    for t in tasks
                ],
            )
            db.execute("UPDATE rounds SET phase = 'run' WHERE no = ?", (no,))

    def move_task(self, task_id: str, phase: TaskPhase, why: str = "") -> None:
        """Where a task is now."""
        with self._write() as db:
            db.execute(
                "UPDATE tasks SET phase = ?, why = ? WHERE id = ?",
                (phase.value, why, task_id),
            )

    def accept(
        self,
        task: TaskRow,
        content: bytes,
        *,
        examples: int,
        norm: float,
        metrics: Mapping[str, float],
    ) -> None:
        """Makes an update durable: its blob, then its row. Twice is once.

        Raises:
            StateError: If the disk refuses; nothing is promised then.
        """
        blob = self.store(content)
        with self._write() as db:
            db.execute(
                "INSERT INTO updates (task, round, device, blob, size, examples, norm, "
                "metrics, accepted) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? "
                "WHERE (SELECT phase FROM rounds WHERE no = ?) = 'run' "
                "ON CONFLICT DO NOTHING",
                (
                    task.id,
                    task.round_no,
                    task.device,
                    blob,
                    len(content),
                    examples,
                    norm,
                    json.dumps(dict(metrics)),
                    _now(),
                    task.round_no,
                ),
            )
            # Only with a row: a task that came after the freeze stays expired.
            db.execute(
                "UPDATE tasks SET phase = 'accepted' WHERE id = ? "
                "AND EXISTS (SELECT 1 FROM updates WHERE task = ?)",
                (task.id, task.id),
            )

    def accepted_blob(self, task_id: str) -> str | None:
        """The blob accepted for a task, if any."""
        row = self._db.execute(
            "SELECT blob FROM updates WHERE task = ?", (task_id,)
        ).fetchone()
        return None if row is None else str(row["blob"])

    def freeze(self, no: int) -> None:
        """Fixes who is in the aggregate, in one transaction."""
        with self._write() as db:
            db.execute("UPDATE updates SET frozen = 1 WHERE round = ?", (no,))
            db.execute("UPDATE rounds SET phase = 'closing' WHERE no = ?", (no,))
            _expire(db, no)

    def finish(self, no: int, *, model: str, note: str = "") -> None:
        """The aggregate is durable under this checkpoint name."""
        self._end(no, Phase.DONE, model, note)

    def abort(self, no: int, why: str) -> None:
        """The round ends without an aggregate."""
        self._end(no, Phase.ABORTED, None, why)

    def _end(self, no: int, phase: Phase, model: str | None, note: str) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE rounds SET phase = ?, model = ?, note = ?, closed = ? "
                "WHERE no = ?",
                (phase.value, model, note, _now(), no),
            )
            _expire(db, no)

    def rounds(self) -> list[RoundRow]:
        """Every round, in order."""
        rows = self._db.execute("SELECT * FROM rounds ORDER BY no").fetchall()
        return [
            RoundRow(
                r["no"],
                Phase(r["phase"]),
                r["goal"],
                r["quorum"],
                r["rate"],
                r["base"],
                r["model"],
                r["note"],
            )
            for r in rows
        ]

    def tasks(self, no: int) -> list[TaskRow]:
        """A round's tasks, by device."""
        rows = self._db.execute(
            "SELECT * FROM tasks WHERE round = ? ORDER BY device", (no,)
        ).fetchall()
        return [_task(row) for row in rows]

    def task(self, task_id: str) -> TaskRow | None:
        """One task."""
        row = self._db.execute(
            "SELECT * FROM tasks WHERE id = ?", (task_id,)
        ).fetchone()
        return None if row is None else _task(row)

    def frozen(self, no: int) -> list[UpdateRow]:
        """The updates of a closed round, sorted by device: what is aggregated."""
        rows = self._db.execute(
            "SELECT u.*, t.density FROM updates u JOIN tasks t ON t.id = u.task "
            "WHERE u.round = ? AND u.frozen = 1 ORDER BY u.device",
            (no,),
        ).fetchall()
        return [
            UpdateRow(
                r["task"],
                r["device"],
                r["density"],
                r["blob"],
                r["examples"],
                json.loads(r["metrics"]),
            )
            for r in rows
        ]

    def refuse(self, device: str, round_no: int, verdict: str, why: str) -> None:
        """Remembers that a device's update was refused."""
        with self._write() as db:
            db.execute(
                "INSERT INTO refusals VALUES (?, ?, ?, ?, ?)",
                (device, round_no, verdict, why, _now()),
            )

    def refusals(self) -> dict[str, int]:
        """Refused updates per device."""
        rows = self._db.execute(
            "SELECT device, count(*) AS n FROM refusals GROUP BY device"
        ).fetchall()
        return {row["device"]: row["n"] for row in rows}

    def record_score(
        self, round_no: int, density: float, metrics: Mapping[str, float]
    ) -> None:
        """What evaluation measured of one round's model at one density."""
        with self._write() as db:
            db.execute(
                "REPLACE INTO scores VALUES (?, ?, ?)",
                (round_no, density, json.dumps(dict(metrics))),
            )

    def scores(self) -> dict[int, dict[float, dict[str, float]]]:
        """Every evaluation: round, density, metric."""
        found: dict[int, dict[float, dict[str, float]]] = {}
        for row in self._db.execute(
            "SELECT * FROM scores ORDER BY round, density DESC"
        ):
            found.setdefault(row["round"], {})[row["density"]] = json.loads(
                row["metrics"]
            )
        return found

    # -- blobs -------------------------------------------------------------------------

    def store(self, content: bytes) -> str:
        """Writes a blob durably and returns its name, the SHA-256 in hex."""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / "blobs" / name
        if not path.exists():
            try:
                replace_file(path, content)
            except Exception as error:
                raise StateError(
                    f"blob {name[:12]} could not be kept: {error}"
                ) from error
        return name

    def blob(self, name: str) -> bytes:
        """A blob's bytes, checked.

        Raises:
            StateError: If it is gone or no longer has its digest.
        """
        try:
            content = (self.folder / "blobs" / name).read_bytes()
        except OSError as error:
            raise StateError(
                f"blob {name[:12]} of the ledger is gone: {error}"
            ) from error
        if hashlib.sha256(content).hexdigest() != name:
            raise StateError(f"blob {name[:12]} of the ledger is damaged")
        return content

    def forget_blobs(self, before_round: int) -> None:
        """Deletes the updates' blobs of rounds long done; their rows stay."""
        rows = self._db.execute(
            "SELECT blob FROM updates WHERE round < ? EXCEPT "
            "SELECT blob FROM updates WHERE round >= ?",
            (before_round, before_round),
        ).fetchall()
        for row in rows:
            (self.folder / "blobs" / str(row["blob"])).unlink(missing_ok=True)

    def close(self) -> None:
        """Lets the next coordinator have the folder."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a run's folder, for the one coordinator that may write it.

    Raises:
        StateError: If another coordinator holds it, or it is of another version.
    """
    try:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StateError(f"run folder {folder} is not usable: {error}") from error
    try:
        if os.name == "posix":
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise StateError(f"{folder} cannot be locked: {error}") from error
        raise StateError(
            f"another coordinator runs in {folder}", remedy="Stop it first."
        ) from error
    db = None
    try:
        db = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(SCHEMA)
        ledger = Ledger(folder, db, lock)
        found = ledger.get("schema")
        if found is None:
            ledger.put("schema", SCHEMA_VERSION)
        _check_version(folder, found or SCHEMA_VERSION)
    except (sqlite3.Error, StateError) as error:
        if db is not None:
            db.close()
        lock.close()
        if isinstance(error, StateError):
            raise
        raise StateError(f"the ledger in {folder} cannot be used: {error}") from error
    return ledger


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a run's folder to look at, also while a coordinator runs.

    Raises:
        StateError: If there is none, or it is of another version.
    """
    path = folder / "ledger.sqlite"
    if not path.exists():
        raise StateError(
            f"{folder} holds no run yet",
            remedy=f"Start it with: flash-coordinator run {folder}",
        )
    db = None
    try:
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",  # quotes a # or ? in the folder
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        ledger = Ledger(folder, db, None)
        _check_version(folder, ledger.get("schema"))
    except (sqlite3.Error, StateError) as error:
        if db is not None:
            db.close()
        if isinstance(error, StateError):
            raise
        raise StateError(f"the ledger {path} cannot be read: {error}") from error
    return ledger


def _check_version(folder: Path, found: object) -> None:
    if found != SCHEMA_VERSION:
        raise StateError(
            f"the ledger in {folder} has schema {found}, this version {SCHEMA_VERSION}",
            remedy="Use the version of flash-edge that wrote it, or a new folder.",
        )


def _expire(db: sqlite3.Connection, no: int) -> None:
    db.execute(
        "UPDATE tasks SET phase = 'expired' WHERE round = ? "
        "AND phase IN ('assigned', 'acked', 'offered')",
        (no,),
    )


def _task(row: sqlite3.Row) -> TaskRow:
    return TaskRow(
        row["id"],
        row["round"],
        row["device"],
        row["density"],
        TaskPhase(row["phase"]),
        row["order_bytes"],
    )


def _first_epoch() -> int:
    since = datetime.now(timezone.utc) - datetime(2020, 1, 1, tzinfo=timezone.utc)
    return max(0, int(since.total_seconds()) // 60)


def _now() -> str:
    """Wall time for people; no decision reads it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
