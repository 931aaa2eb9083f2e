"""Group commit: many writes, one fsync, and promises kept only after it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeAlias

from coordinator.ledger.blobs import Blobs
from coordinator.ledger.database import database_error
from coordinator.ledger.update_files import UpdateFiles
from edge_sdk.errors import EdgeError, StateError, disk_remedy
from edge_sdk.json_text import to_json

__all__ = ["Commits", "Pages", "now"]

FARTHEST_S = 1e9  # thirty years; later instants are not told apart
Promise: TypeAlias = Callable[[], None]


class Commits:
    """The one transaction that is open at a time.

    Args:
        folder: The run's folder, for messages.
        db: Its database, in autocommit mode.
        updates: Its updates; those of a group are made durable before its rows.
    """

    def __init__(
        self, folder: Path, db: sqlite3.Connection, updates: UpdateFiles
    ) -> None:
        self._folder, self._db, self._updates = folder, db, updates
        self._promises: list[Promise] = []
        self._writer: ThreadPoolExecutor | None = None  # of files that are no rows
        self._files: list[Future[None]] = []  # on their way to the disk
        self._broken: StateError | None = None
        self._together = False  # what would commit joins the open group
        self.epoch: int | None = None  # of the coordinator that holds the ledger

    @property
    def open(self) -> bool:
        """True while something is written that is not durable."""
        return self._db.in_transaction

    @property
    def promised(self) -> int:
        """Promises that wait for the next commit."""
        return len(self._promises)

    def begin(self) -> None:
        """Begins a group where none is open, as its first write would.

        Raises:
            StateError: As `joined`.
        """
        try:
            self._begin()
        except sqlite3.Error as error:
            raise self._break(error) from error

    @contextmanager
    def joined(self) -> Iterator[sqlite3.Connection]:
        """Writes as a part of the open group; all of the part or nothing of it.

        Raises:
            StateError: If the disk or the database refuses, or another coordinator has
                taken the run over.
        """
        try:
            self._begin()
            self._db.execute("SAVEPOINT part")
            yield self._db
            self._db.execute("RELEASE part")
        except sqlite3.Error as error:
            raise self._break(error) from error
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO part")
                self._db.execute("RELEASE part")
            raise

    def write(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Writes by one statement, as a part of the open group.

        It needs no savepoint, whose two statements cost as much as itself.

        Raises:
            StateError: As `joined`.
        """
        try:
            self._begin()
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._break(error) from error

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Writes and commits, with whatever group is open; in `together` joins it.

        Raises:
            StateError: As `joined` and `settle`.
        """
        with self.joined() as db:
            yield db
        if not self._together:
            self.settle()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Has what is written inside share the next commit, which comes after it."""
        outer, self._together = self._together, True
        try:
            yield
        finally:
            self._together = outer

    def beside(self, write: Callable[[], None]) -> None:
        """Has a file written on a thread; the next commit waits until it is durable.

        A disk takes milliseconds for what costs no processor time. Files are written
        in the order of these calls.

        Args:
            write: Returns once the file is durable; its error is raised by `settle`.
        """
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "ledger-files")
        self._files.append(self._writer.submit(write))

    def once_durable(self, promise: Promise) -> None:
        """Calls back once all that is written so far is durable; at once if it is."""
        if self.open:
            self._promises.append(promise)
        elif self._broken is None:
            promise()

    def settle(self) -> None:
        """Commits the open group and keeps its promises.

        Files that are written `beside` are durable before it.

        Raises:
            StateError: If the disk refuses; the group is gone and no promise is kept.
        """
        if self._broken is not None:
            raise self._broken
        self._wait_for_files()
        if self._db.in_transaction:
            try:
                self._updates.settle()
                self._db.execute("COMMIT")
                self._updates.committed()
            except (sqlite3.Error, StateError) as error:
                raise self._break(error) from error
        promises, self._promises = self._promises, []
        for promise in promises:
            promise()

    def close(self) -> None:
        """Takes back what `settle` has not committed, and ends the thread."""
        self.give_up()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None

    def give_up(self) -> None:
        """Takes the open group back; for the end of a ledger that broke."""
        self._promises.clear()
        self._files.clear()  # without their rows they are of no use, and no harm
        self._updates.drop()  # while no other coordinator can write
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _wait_for_files(self) -> None:
        files, self._files = self._files, []
        try:
            for one in files:
                one.result()
        except EdgeError as error:
            raise self._break(StateError(str(error), remedy=error.help)) from error
        except OSError as error:
            raise self._break(
                StateError(
                    f"a file of {self._folder} could not be written: {error}",
                    remedy=disk_remedy(error),
                )
            ) from error

    def _begin(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._db.in_transaction:
            return
        self._db.execute("BEGIN IMMEDIATE")
        if self.epoch is None:
            return
        row = self._db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        if row is not None and json.loads(row["value"]) != self.epoch:
            self._db.execute("ROLLBACK")
            self._broken = StateError(
                f"another coordinator has taken over the run in {self._folder}",
                remedy="Stop one of the two; devices follow only the newer one.",
            )
            raise self._broken

    def _break(self, error: Exception) -> StateError:
        """The group is lost, so the ledger in memory and on disk differ: no way on."""
        self.give_up()
        if isinstance(error, StateError):
            self._broken = error
        else:
            self._broken = _refused(self._folder / "ledger.sqlite", error)
        return self._broken


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
        self._updates = UpdateFiles(folder / "blobs")
        self._commits = Commits(folder, db, self._updates)

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

    @property
    def unsettled(self) -> bool:
        """True while something is written that is not durable yet."""
        return self._commits.open

    @property
    def promised(self) -> int:
        """Promises that wait for `settle`."""
        return self._commits.promised

    def beside(self, write: Callable[[], None]) -> None:
        """Has a file written on a thread; the next commit waits until it is durable.

        Args:
            write: Returns once the file is durable; its error is raised by `settle`.
        """
        self._commits.beside(write)

    def together(self) -> AbstractContextManager[None]:
        """Has what is written inside share the next commit, which comes after it.

        For what nothing follows from before that commit: nobody is told of it, and a
        crash that takes it back has it written again.
        """
        return self._commits.together()

    def once_durable(self, promise: Callable[[], None]) -> None:
        """Calls back once all that is written so far is durable; at once if it is."""
        self._commits.once_durable(promise)

    def settle(self) -> None:
        """Commits the open group, then keeps its promises.

        Raises:
            StateError: If the disk refuses; the group is gone and no promise is kept.
        """
        self._commits.settle()


def now(later_s: float = 0.0) -> str:
    """Wall time for people, or so many seconds later; no decision reads it."""
    at = datetime.now(timezone.utc)
    if later_s:  # a device may once have claimed thousands of years
        at += timedelta(seconds=min(later_s, FARTHEST_S))
    return at.isoformat(timespec="milliseconds")


def _refused(path: Path, error: Exception) -> StateError:
    if isinstance(error, sqlite3.Error):
        return database_error(path, error)
    return StateError(f"{path} refused: {error}")
