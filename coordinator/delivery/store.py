"""Store of deliveries and of what each device runs: one SQLite file of a run.

`flash-coordinator deliver` writes it while a coordinator runs, which looks at `version`
a few times a second. The packed bundles lie beside it, named by their SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from coordinator.ledger.database import database_error
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import CheckpointError, StateError, disk_remedy
from edge_sdk.private_files import make_private, private_file
from edge_sdk.wire.messages import Running

__all__ = ["PENDING", "SUPERSEDED", "Delivery", "DeliveryStore", "LiveModel"]

PENDING, SUPERSEDED = "", "superseded"
BUSY_S = 10.0  # as long as one process waits for the other
SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
  no INTEGER NOT NULL, device TEXT NOT NULL, label TEXT NOT NULL, digest BLOB NOT NULL,
  blob TEXT NOT NULL, key BLOB, verdict TEXT NOT NULL DEFAULT '',
  why TEXT NOT NULL DEFAULT '', made TEXT NOT NULL, ended TEXT,
  PRIMARY KEY (no, device));
CREATE TABLE IF NOT EXISTS live (
  device TEXT PRIMARY KEY, label TEXT NOT NULL, digest BLOB, at TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One bundle for one device.

    Attributes:
        no: The delivery's number; one may go to many devices.
        device: Whom it is for.
        label: Its task and round.
        digest: SHA-256 of its manifest.
        blob: SHA-256 of the packed bundle, hex.
        key: Raw key that must have signed it; None for none.
        verdict: `PENDING`, ``live``, ``failed``, ``refused`` or `SUPERSEDED`.
        why: What the device said to that.
    """

    no: int
    device: str
    label: str
    digest: bytes
    blob: str
    key: bytes | None
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class LiveModel:
    """Model that a device says it runs; `digest` is None while it runs nothing."""

    label: str
    digest: bytes | None
    at: str


class DeliveryStore:
    """The deliveries of a run; the file is made by the first one.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "deliveries"
        self._path = self._folder / "deliveries.sqlite"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # One connection per use: processes come here seldom.
        db = None
        try:
            make_private(self._folder)
            private_file(self._path)
            db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_S)
            db.row_factory = sqlite3.Row
            _journal_ahead(db)
            db.executescript(SCHEMA)
            yield db
        except sqlite3.Error as error:
            raise database_error(self._path, error) from error
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be used: {error}", remedy=disk_remedy(error)
            ) from error
        finally:
            if db is not None:
                db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and no other process writes meanwhile."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")  # closing takes back what was not committed

    def version(self) -> tuple[int, int]:
        """Differs once something was written; (0, 0) before the first delivery."""
        wal = self._path.with_name(self._path.name + "-wal")
        found = 0, 0
        for path in (self._path, wal):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found = found[0] + stat.st_mtime_ns, found[1] + stat.st_size
        return found

    def add(
        self,
        packed: bytes,
        blob: str,
        *,
        digest: bytes,
        key: bytes | None,
        label: str,
        devices: Sequence[str],
    ) -> int:
        """A new delivery, durable when it returns; earlier ones still on their way end.

        Args:
            packed: The packed bundle.
            blob: Its SHA-256, hex.
            digest: SHA-256 of its manifest.
            key: Raw key that must have signed it.
            label: Its task and round.
            devices: Whom it is for.

        Returns:
            Its number.

        Raises:
            StateError: If it cannot be kept.
        """
        with self._writing() as db:
            try:  # while nobody can `forget` what no row asks for yet
                replace_file(self._folder / blob, packed)
            except CheckpointError as error:
                raise StateError(str(error), remedy=error.help) from error
            last = db.execute("SELECT max(no) FROM deliveries").fetchone()[0]
            no = 1 + (last or 0)
            db.executemany(
                "UPDATE deliveries SET verdict = ?, ended = ? "
                "WHERE device = ? AND verdict = ''",
                [(SUPERSEDED, _now(), device) for device in devices],
            )
            db.executemany(
                "INSERT INTO deliveries (no, device, label, digest, blob, key, made) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(no, d, label, digest, blob, key, _now()) for d in devices],
            )
        return no

    def content(self, blob: str) -> bytes:
        """A packed bundle.

        Raises:
            StateError: If it is gone or no longer has its digest.
        """
        try:
            packed = (self._folder / blob).read_bytes()
        except OSError as error:
            raise StateError(
                f"a bundle to deliver is gone: {error}",
                remedy="Deliver it again: flash-coordinator deliver.",
            ) from error
        if hashlib.sha256(packed).hexdigest() != blob:
            raise StateError(
                f"{self._folder / blob} no longer has its digest",
                remedy="Delete it and deliver the bundle again.",
            )
        return packed

    def forget(self) -> None:
        """Deletes packed bundles that nobody waits for any more."""
        with self._writing() as db:
            rows = db.execute("SELECT blob FROM deliveries WHERE verdict = ''")
            wanted = {row["blob"] for row in rows}
            for path in self._folder.glob("[0-9a-f]" * 64):
                if path.name not in wanted:
                    path.unlink(missing_ok=True)

    def end(self, no: int, device: str, verdict: str, why: str) -> None:
        """A delivery has ended on a device; what ended before stays as it is."""
        with self._open() as db:
            db.execute(
                "UPDATE deliveries SET verdict = ?, why = ?, ended = ? "
                "WHERE no = ? AND device = ? AND verdict = ''",
                (verdict, why, _now(), no, device),
            )

    def runs(self, device: str, running: Running) -> None:
        """Record the model that a device says it runs."""
        with self._open() as db:
            db.execute("PRAGMA synchronous = NORMAL")  # it says so again
            db.execute(
                "REPLACE INTO live VALUES (?, ?, ?, ?)",
                (device, running.label, running.live, _now()),
            )

    def latest(self) -> dict[str, Delivery]:
        """The last delivery to each device."""
        if not self._path.exists():
            return {}
        with self._open() as db:
            rows = db.execute("SELECT * FROM deliveries ORDER BY no").fetchall()
        return {
            r["device"]: Delivery(*(r[f] for f in Delivery.__dataclass_fields__))
            for r in rows
        }

    def live(self) -> dict[str, LiveModel]:
        """The model that each device runs, as it reported."""
        if not self._path.exists():
            return {}
        with self._open() as db:
            rows = db.execute("SELECT * FROM live").fetchall()
        return {r["device"]: LiveModel(r["label"], r["digest"], r["at"]) for r in rows}


def _now() -> str:
    """Wall time for people; no decision reads it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _journal_ahead(db: sqlite3.Connection) -> None:
    """Has a new file keep a write-ahead log; of an old one it is known.

    SQLite does not wait for this as for other locks: of two who make the file at once,
    one is refused at once.
    """
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:  # noqa: PERF203 - that is the loop
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return
