"""Files of accepted updates: those of a round one after the other in one file.

The ledger's row has an update's place in it, its size and its SHA-256. What lies behind
the last place that a row names was never promised, and is cut off at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge_sdk.checkpoint import sync
from edge_sdk.errors import StateError, disk_remedy

__all__ = ["BlobPlace", "UpdateFiles", "not_kept"]

_PREFIX, _SUFFIX = "round-", ".updates"


class BlobPlace(NamedTuple):
    """Place of the bytes of a blob.

    Attributes:
        path: The file.
        start: Where they begin in it.
        size: How many they are; None for the whole file.
    """

    path: Path
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Reads them, unchecked; fewer where the file was cut short.

        Raises:
            OSError: If the file cannot be read.
        """
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            return file.read() if self.size is None else file.read(self.size)

    def content(self, digest: str) -> bytes:
        """Reads them and compares them with their SHA-256 in hex.

        Raises:
            StateError: If they are gone or damaged.
        """
        try:
            content = self.read()
        except OSError as error:
            raise StateError(
                f"blob {digest[:12]} of the ledger is gone: {error}",
                remedy="Put it back from a copy of the folder; a round that has to be "
                "closed again cannot do without its updates.",
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            part = "" if self.size is None else f" from byte {self.start} on"
            raise StateError(
                f"blob {digest[:12]} of the ledger is damaged: {self.path}{part} no "
                "longer has the SHA-256 that the ledger names",
                remedy="Put it back from a copy of the folder, and look at the disk: "
                "see dmesg.",
            )
        return content


class _Open:
    """A round's file that is written.

    Rows name `committed` bytes of it; `durable` are known to be on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.new = not path.exists()
        path.touch()
        # Unbuffered: an error is of the update that is written, not of a later one.
        self.file: BinaryIO = path.open("r+b", buffering=0)
        self.end = self.committed = self.durable = self.file.seek(0, os.SEEK_END)


class UpdateFiles:
    """The files of one run's accepted updates.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: int | None = None  # the folder's handle, once a file is new
        self._open: dict[int, _Open] = {}  # by round; more than one only in a group

    def begin(self, round_no: int) -> None:
        """Makes a round's file and its name durable, so that no receipt waits for it.

        Raises:
            OSError: If the disk refuses.
        """
        path = self.path(round_no)
        if not path.exists():
            path.touch()
            sync(self._folder)

    def append(self, round_no: int, content: bytes, digest: str) -> int:
        """Writes an update behind the round's others, for `settle`; returns its place.

        Args:
            round_no: The round.
            content: The bytes, which are no longer held afterwards.
            digest: Their SHA-256 in hex, for the message.

        Raises:
            StateError: If the disk refuses; nothing of the update is left then.
        """
        try:
            known = self._of(round_no)
        except OSError as error:
            raise not_kept(digest, error) from error
        start, left = known.end, memoryview(content)
        try:
            known.file.seek(start)
            while left:
                left = left[known.file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                known.file.truncate(start)
            raise not_kept(digest, error) from error
        known.end = start + len(content)
        return start

    def _of(self, round_no: int) -> _Open:
        known = self._open.get(round_no)
        if known is None:
            known = self._open[round_no] = _Open(self.path(round_no))
            if self._names is None:
                self._names = os.open(self._folder, os.O_RDONLY)
        return known

    def sync(self) -> None:
        """Makes durable what was appended up to now; for another thread.

        Raises:
            OSError: If the disk refuses.
        """
        for one in list(self._open.values()):
            end = one.end
            if one.durable < end:
                os.fsync(one.file.fileno())
                one.durable = end

    def settle(self) -> None:
        """Makes durable what was appended, by one sync of each file, before its rows.

        Raises:
            StateError: If the disk refuses; what was appended is cut off then.
        """
        try:
            self.sync()
            new = [one for one in self._open.values() if one.new]
            if new and self._names is not None:
                os.fsync(self._names)
        except OSError as error:
            self.drop()
            raise StateError(
                f"updates could not be kept: {error}", remedy=disk_remedy(error)
            ) from error
        for one in new:
            one.new = False

    def committed(self) -> None:
        """The ledger has rows of all that was appended."""
        for one in self._open.values():
            one.committed = one.end
        while len(self._open) > 1:  # the rounds before are over
            self._open.pop(min(self._open)).file.close()

    def drop(self) -> None:
        """Cuts off what was appended since `committed`: its group is given up."""
        for one in self._open.values():
            with contextlib.suppress(OSError):
                one.file.truncate(one.committed)
            one.end = one.durable = one.committed

    def path(self, round_no: int) -> Path:
        """The file of a round."""
        return self._folder / f"{_PREFIX}{round_no:05d}{_SUFFIX}"

    @staticmethod
    def round_in(path: Path) -> int | None:
        """The round whose file that is; None for any other file."""
        no = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        return int(no) if no.isdecimal() and path.name.startswith(_PREFIX) else None

    def cut(self, ends: Mapping[int, int]) -> None:
        """Cuts off what a killed coordinator appended and never committed.

        Args:
            ends: Bytes of each round's file that the ledger knows of.

        Raises:
            StateError: If the disk refuses.
        """
        try:
            for no, path in self._rounds().items():
                end = ends.get(no, 0)
                if not end:
                    path.unlink()
                elif path.stat().st_size > end:
                    os.truncate(path, end)
        except OSError as error:
            raise StateError(
                f"what was not committed could not be cut off: {error}",
                remedy=disk_remedy(error),
            ) from error

    def forget(self, before_round: int) -> None:
        """Deletes the files of earlier rounds."""
        for no, path in self._rounds().items():
            if no < before_round:
                if no in self._open:
                    self._open.pop(no).file.close()
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the files; what was not committed is cut off."""
        self.drop()
        for one in self._open.values():
            one.file.close()
        self._open.clear()
        if self._names is not None:
            os.close(self._names)
            self._names = None

    def _rounds(self) -> dict[int, Path]:
        found = {}
        for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            no = self.round_in(path)
            if no is not None:
                found[no] = path
        return found


def not_kept(name: str, error: Exception) -> StateError:
    """The error of a blob that the disk does not take."""
    remedy = getattr(error, "help", None)
    if isinstance(error, OSError):
        remedy = disk_remedy(error)
    return StateError(f"blob {name[:12]} could not be kept: {error}", remedy=remedy)
