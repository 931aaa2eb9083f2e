"""`DeviceData`: a device's examples, read again when their source has changed."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.growing.keep import KeepRule, kept
from edge_sdk.datasets.growing.mapped_files import MappedFiles
from edge_sdk.errors import DataError, TaskError, two_sentences
from edge_sdk.tasks.task import Examples, Task

__all__ = ["NOTHING_NEW", "DeviceData", "version_of"]

log = logging.getLogger(__name__)

FILE = "data.json"
# A disk, a mount or a database that is away comes back with nothing changed, so it is
# asked again; content that is wrong is not read again before it changes.
PASSING = (OSError, MemoryError, sqlite3.OperationalError)
_IN_PLACE = "written over or cut in place while it was mapped"
_REPLACE = "Write a file of examples under another name, then rename it."
AGAIN_S = 60.0  # until an unchanged source that has given nothing is tried again
NOTHING_NEW = "no new examples since its last update that counted"


class _Trained(msgspec.Struct, frozen=True):
    """The version of the data that a task was trained on."""

    task: str = ""
    version: str = ""


def _now() -> dt.datetime:
    return dt.datetime.now().astimezone()


def _nothing(task: Task) -> Examples:
    """No examples, of a source that has given none yet; else `Examples` refuses it."""
    none = object.__new__(Examples)
    empty = {
        "inputs": np.zeros((0, *task.input_shape), np.float32),
        "targets": np.zeros(0, np.int64),
    }
    for name in ("inputs", "targets", "casts", "groups"):
        object.__setattr__(none, name, empty.get(name))
    return none


def _take_any(_: Examples) -> None:
    """Nothing more to check: reading the data has checked them."""


class DeviceData:
    """A device's examples: between two tasks they follow their source.

    A source that fails, or has nothing left, is named in the log and in the device's
    status, and the device goes on with what it had. Only where that was mapped from a
    file which was written over or cut in place, nothing is left to go on with: it rests
    until the source can be read again. So does one that `waits` for a source which is
    away when it starts.

    Args:
        task: Reads and checks them.
        folder: Where they are.
        state: The device's state folder; says what was trained on over restarts.
        keep: What of the source is kept.
        seed: Of a reservoir.
        clock: Seconds since 1970, UTC.
        arrays: Whether they are checked in numpy alone until `fit`.
        waits: Whether to begin without examples where the source gives none.

    Attributes:
        check: Refuses examples that came later, by a DataError; set by who trains.
        examples: Those at hand; none of a source that has given none yet.
        held: Its own test examples, of a task with `holdout_data`; else None.
        failing: Why the source could not be read the last time; empty where it could.

    Raises:
        DataError: If they cannot be read at all, and nobody waits.
        TaskError: If they do not fit the task, likewise.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        state: Path,
        *,
        keep: KeepRule = KeepRule(),  # noqa: B008 - frozen
        seed: int = 0,
        clock: Callable[[], float] = lambda: _now().timestamp(),
        arrays: bool = False,
        waits: bool = False,
    ) -> None:
        self._task, self._folder, self._path = task, folder, state / FILE
        self._arrays = arrays
        self.check: Callable[[Examples], None] = _take_any
        self._keep, self._seed, self._clock = keep, seed, clock
        self._version, self.failing = version_of(task, folder), ""
        self._away = False  # it failed by what may pass
        self._failed = ""  # the version that could not be read
        self._next, self._reading = 0.0, threading.RLock()
        self.examples, self.held = _nothing(task), None
        try:
            self.examples = self._read(known=False)
            self.held = task.read_holdout(folder, arrays=arrays)
        except (DataError, TaskError) as error:
            if not waits:
                raise
            self.examples = _nothing(task)
            self._fail(error, self._version)
        self._files = MappedFiles(self.examples, self.held)

    def fit(self) -> None:
        """Checks the examples by a step of model and loss, now and from now on.

        Raises:
            DataError: As `Task.read_train`; also TaskError.
        """
        from edge_sdk.tasks.example_check import fitted  # noqa: PLC0415 - torch

        self._arrays = False
        self.examples = fitted(self._task, self.examples, self._folder, known=False)
        if self.held is not None:
            self.held = fitted(self._task, self.held, self._folder, known=False)

    def refresh(self) -> bool:
        """Reads the examples again if their source has changed; whether they did."""
        with self._reading:  # the agent's loop and its training both ask
            return self._refresh()

    def _refresh(self) -> bool:
        version = version_of(self._task, self._folder)
        spoilt = self._files.spoilt()
        same = version == self._version and not spoilt and len(self.examples) > 0
        if same and self._keep.kind != "seconds":
            if self._away:  # it is back, as it was when it was read
                self._mended()
            return False
        before, self._version = self._version, version
        try:
            found = self._read(known=version == before and len(self.examples) > 0)
            held = self._task.read_holdout(self._folder, arrays=self._arrays)
            self.check(found)
        except (DataError, TaskError) as error:
            self._fail(error, version)
            if self._away:
                self._version = before
            return False
        self._mended()
        if version != before:
            log.info(
                "the data have changed: %d examples, %d before",
                *(len(found), len(self.examples)),
            )
        self.examples, self.held = found, held
        self._files = MappedFiles(found, held)
        return True

    def lost(self) -> str:
        """Reason why nothing can be worked on before the source changes, or empty.

        A device that has had no examples yet reads them here, once they are there.
        """
        if not len(self.examples):
            if self._again():
                self.refresh()
            return self.failing
        if self._away or not self.failing or not self._files.spoilt():
            return ""
        if version_of(self._task, self._folder) != self._failed:
            return ""
        return f"the data cannot be read anew, {self.failing}"

    def check_whole(self) -> None:
        """Refuses no examples, and those of a file that was written over in place.

        Raises:
            DataError: Names the file, or says why there are none.
        """
        if not len(self.examples):
            raise DataError(self.failing)
        spoilt = self._files.spoilt()
        if spoilt:
            raise DataError(
                self.failing or f"{spoilt} was {_IN_PLACE}", remedy=_REPLACE
            )

    def _again(self) -> bool:
        """Return whether to read a source anew that has given nothing so far."""
        now, seen = time.monotonic(), version_of(self._task, self._folder)
        if seen == self._failed and not self._away and now < self._next:
            return False
        self._next = now + AGAIN_S
        return True

    def _fail(self, error: DataError | TaskError, version: str) -> None:
        """Notes and says why the source of this version could not be read."""
        self._away = isinstance(error.__cause__, PASSING)
        self._failed, spoilt = version, ""
        stay, what = "there are no examples", "the data cannot be read"
        if len(self.examples):
            spoilt, what = self._files.spoilt(), f"{what} anew"
            stay = f"the {len(self.examples)} examples of before stay"
        if spoilt:
            stay = f"no examples are left, {spoilt} was {_IN_PLACE}"
        why = f"{stay}: {two_sentences(error, error.help)}"
        if why != self.failing:
            log.warning("%s, %s", what, why)
        self.failing = why

    def _mended(self) -> None:
        if self.failing:
            log.info("the data can be read again")
        self.failing, self._away = "", False

    def trains(self, task: str) -> None:
        """Note durably that a task is trained on the examples at hand.

        Raises:
            CheckpointError: If the disk refuses.
        """
        note = _Trained(task, self._version)
        replace_file(self._path, msgspec.json.encode(note))

    def is_new(self, accepted: Callable[[str], bool]) -> bool:
        """Return whether there is data that no update which counted was trained on.

        Args:
            accepted: Whether a task's update was accepted.
        """
        try:
            last = msgspec.json.decode(self._path.read_bytes(), type=_Trained)
        except (OSError, msgspec.MsgspecError):
            return True
        unseen = last.version != version_of(self._task, self._folder)
        return unseen or not accepted(last.task)

    def _read(self, *, known: bool) -> Examples:
        found = self._task.read_train(self._folder, known=known, arrays=self._arrays)
        return kept(found, self._keep, now=self._clock(), seed=self._seed)


def version_of(task: Task, folder: Path) -> str:
    """A text that is another when the data have changed; nothing of them is read.

    A `train_data` that reads elsewhere has an attribute `version`, a function of the
    folder; else names, sizes and times of the folder's files make it.
    """
    own = getattr(task.train_data, "version", None)
    if callable(own):
        try:
            return str(own(folder))
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            log.warning(
                "train_data.version failed: %s: %s", type(error).__name__, error
            )
            return ""
    seen = hashlib.sha256()
    try:
        for root, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                stat = (Path(root) / name).stat()
                seen.update(
                    f"{root}\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode()
                )
    except OSError as error:
        log.debug("%s changes while it is looked at: %s", folder, error)
        return ""
    return seen.hexdigest()
