"""The ledger as a whole: opened, locked, settled and closed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import IO

from coordinator.ledger.database import database_error
from coordinator.ledger.evaluation_pages import EvaluationPages
from coordinator.ledger.fleet_pages import FleetPages
from coordinator.ledger.history_pages import HistoryPages
from coordinator.ledger.readable import in_words
from coordinator.ledger.round_pages import RoundPages
from coordinator.ledger.schema import columns_of, open_to_read, open_to_write
from coordinator.ledger.secure_pages import SecurePages
from coordinator.ledger.update_files import BlobPlace
from edge_sdk.checkpoint import remove_drafts
from edge_sdk.errors import StateError, disk_remedy
from edge_sdk.private_files import make_private, private_file

if os.name == "posix":
    import fcntl

__all__ = ["Ledger", "holder", "is_held", "no_run", "open_ledger", "read_ledger"]


LEDGER = "ledger.sqlite"


@in_words
class Ledger(RoundPages, FleetPages, HistoryPages, EvaluationPages, SecurePages):
    """One run's ledger; made by `open_ledger` or, to look only, `read_ledger`."""

    def __init__(
        self, folder: Path, db: sqlite3.Connection, lock: IO[str] | None
    ) -> None:
        super().__init__(folder, db)
        self._lock = lock
        self._beside: dict[str, BlobPlace] = {}  # of the blob that was read last
        if lock is not None:
            self._blobs.sweep()
            self._cut_updates()
            remove_drafts(folder / "checkpoints", folder / "models")

    def next_epoch(self) -> int:
        """Begin and return this coordinator's epoch: one more than the last one's.

        A new run starts at the minutes since 2020 instead of 1: devices are deaf to
        epochs below the newest they heard, and task ids are made from it, so a second
        run with the same devices must not start where the first one did.

        From here on the epoch is a fence: should another coordinator raise it, because
        a lock did not hold (a network disk, a copied folder), this one's writes fail.
        """
        epoch = int(self.get("epoch") or _first_epoch()) + 1
        self.put("epoch", epoch)
        self._commits.epoch = epoch
        return epoch

    # -- blobs -------------------------------------------------------------------------

    def store(self, content: bytes) -> str:
        """Writes a blob durably and returns its name, the SHA-256 in hex."""
        return self._blobs.store(content)

    def blob(self, name: str) -> bytes:
        """A blob's bytes, checked.

        Raises:
            StateError: If it is gone or no longer has its digest.
        """
        place = self._beside.pop(name, None)
        if place is None:
            place = self.place_of(name)
            self._beside = self._in_file_of(place)
            self._beside.pop(name, None)
        return place.content(name)

    def forget_blobs(self, before_round: int) -> None:
        """Deletes the blobs of earlier rounds."""
        self._beside.clear()
        super().forget_blobs(before_round)

    def place_of(self, name: str) -> BlobPlace:
        """The place of a blob, if it is there; the newest of several."""
        row = None
        if self._has_places:
            row = self._db.execute(
                "SELECT round, place, size FROM updates WHERE blob = ? "
                "AND place NOT NULL ORDER BY round DESC LIMIT 1",
                (name,),
            ).fetchone()
        if row is None:
            return self._blobs.place(name)
        return BlobPlace(self._updates.path(row["round"]), row["place"], row["size"])

    def _in_file_of(self, place: BlobPlace) -> dict[str, BlobPlace]:
        """Places of all updates in one file: who reads one of a round reads the rest.

        A query for each was a tenth of closing a round of a hundred devices.
        """
        no = self._updates.round_in(place.path)
        if no is None:
            return {}
        rows = self._db.execute(
            "SELECT blob, place, size FROM updates WHERE round = ? AND place NOT NULL",
            (no,),
        )
        return {n: BlobPlace(place.path, start, size) for n, start, size in rows}

    def _cut_updates(self) -> None:
        """Cut off what was appended and never committed, while nobody else writes."""
        with self._commits.alone() as db:
            ends = db.execute(
                "SELECT round, max(place + size) FROM updates "
                "WHERE place NOT NULL GROUP BY round"
            )
            self._updates.cut(dict(ends.fetchall()))

    @cached_property
    def _has_places(self) -> bool:
        """Return whether updates have places: in an older ledger all are own files."""
        return "place" in columns_of(self._db, "updates")

    def close(self) -> None:
        """Settles what it can, and lets the next coordinator have the folder."""
        with contextlib.suppress(StateError):  # it broke before, and said so then
            self._commits.settle()
        self._commits.close()
        self._updates.close()
        self._db.close()
        if self._lock is not None:
            self._lock.close()


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a run's folder, for the one coordinator that may write it.

    Raises:
        StateError: If another coordinator holds it, or it is of another version.
    """
    try:
        make_private(folder)
        make_private(folder / "blobs")
        lock = (folder / "lock").open("a+")  # not w: it may name another process
    except OSError as error:
        raise StateError(
            f"run folder {folder} is not usable: {error}", remedy=disk_remedy(error)
        ) from error
    try:
        if os.name == "posix":
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        private_file(folder / LEDGER)
        return Ledger(folder, open_to_write(folder / LEDGER), lock)
    except BlockingIOError as error:
        lock.close()
        raise StateError(
            f"another coordinator runs in {folder}", remedy="Stop it first."
        ) from error
    except sqlite3.Error as error:
        lock.close()
        raise database_error(folder / LEDGER, error) from error
    except OSError as error:
        lock.close()
        raise StateError(
            f"{folder} cannot be locked: {error}", remedy=disk_remedy(error)
        ) from error
    except BaseException:
        lock.close()
        raise


def is_held(folder: Path) -> bool:
    """Return whether a coordinator runs in a folder; False if that is unknown."""
    if os.name != "posix":
        return False
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(folder: Path) -> int | None:
    """The process that runs as the coordinator of a folder, on this machine."""
    if not is_held(folder):
        return None
    text = (folder / "lock").read_text(encoding="ascii", errors="replace").strip()
    return int(text) if text.isdecimal() else None


def no_run(folder: Path) -> StateError:
    """The error of a folder without a federation's run; names a simulation in it."""
    if (folder / "metrics.jsonl").exists():
        return StateError(
            f"{folder} holds a simulation, not the run of a coordinator",
            remedy=f"Go on with: flash-coordinator simulate {folder}; draw it with: "
            f"flash-coordinator plot plots {folder}",
        )
    return StateError(
        f"{folder} holds no run yet",
        remedy=f"Start it with: flash-coordinator run {folder}",
    )


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a run's folder to look at, also while a coordinator runs.

    Raises:
        StateError: If there is none, or it is of another version.
    """
    path = folder / LEDGER
    if not path.exists():
        raise no_run(folder)
    if not path.stat().st_size and not is_held(folder) and not path.stat().st_size:
        raise StateError(
            f"{path} is empty: it was cut off, or never written",
            remedy=f"If the run had begun, put a copy back. Else delete it, then: "
            f"flash-coordinator run {folder}",
        )
    try:
        return Ledger(folder, open_to_read(path), None)
    except sqlite3.Error as error:
        raise database_error(path, error) from error


def _first_epoch() -> int:
    since = datetime.now(timezone.utc) - datetime(2020, 1, 1, tzinfo=timezone.utc)
    return max(0, int(since.total_seconds()) // 60)
