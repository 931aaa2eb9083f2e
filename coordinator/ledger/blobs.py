"""Blobs as files named by their SHA-256; many become durable at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import StateError, disk_remedy

__all__ = ["Blobs"]

# ext4 joins fsyncs that run at once into one journal commit: 32 files of 250 KB took
# 15 to 130 ms one after the other and 12 ms over four threads.
FSYNC_THREADS = 4


class Blobs:
    """The blobs of one run.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staged: dict[str, Path] = {}  # written, not yet durable
        self._touched = False  # a name of this group may not be durable yet
        self._pool: ThreadPoolExecutor | None = None

    def store(self, content: bytes) -> str:
        """Writes a blob durably and returns its name, the SHA-256 in hex.

        Raises:
            StateError: If the disk refuses.
        """
        name = hashlib.sha256(content).hexdigest()
        path = self._folder / name
        if not path.exists():
            try:
                replace_file(path, content)
            except Exception as error:
                raise _not_kept(name, error) from error
        return name

    def stage(self, content: bytes, name: str = "") -> str:
        """Writes a blob that `settle` makes durable; returns its name.

        The content is on its way to the disk and no longer held.

        Args:
            content: The bytes.
            name: Their SHA-256 in hex, where it is known.

        Raises:
            StateError: If the disk refuses.
        """
        name = name or hashlib.sha256(content).hexdigest()
        self._touched = True  # a crash may have left the name without its folder's sync
        if name in self._staged or (self._folder / name).exists():
            return name
        path = self._folder / f".{name}.tmp"
        try:
            path.write_bytes(content)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise _not_kept(name, error) from error
        self._staged[name] = path
        return name

    def settle(self) -> None:
        """Makes every staged blob durable: content, then name, then folder.

        Raises:
            StateError: If the disk refuses; what was staged is not there then.
        """
        if not self._touched:
            return
        try:
            if len(self._staged) > 1:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(FSYNC_THREADS, "fsync")
                list(self._pool.map(_fsync, self._staged.values()))
            else:
                for path in self._staged.values():
                    _fsync(path)
            for name, path in self._staged.items():
                path.replace(self._folder / name)
            _fsync(self._folder)
        except OSError as error:
            self.drop()
            raise StateError(
                f"updates could not be kept: {error}", remedy=disk_remedy(error)
            ) from error
        self._staged.clear()
        self._touched = False

    def drop(self) -> None:
        """Forgets what was staged: its group will not be committed."""
        for path in self._staged.values():
            with contextlib.suppress(OSError):
                path.unlink()
        self._staged.clear()
        self._touched = False

    def read(self, name: str) -> bytes:
        """A blob's bytes, checked.

        Raises:
            StateError: If it is gone or no longer has its digest.
        """
        try:
            content = self._staged.get(name, self._folder / name).read_bytes()
        except OSError as error:
            raise StateError(
                f"blob {name[:12]} of the ledger is gone: {error}",
                remedy="Put it back from a copy of the folder; a round that has to be "
                "closed again cannot do without its updates.",
            ) from error
        if hashlib.sha256(content).hexdigest() != name:
            raise StateError(
                f"blob {name[:12]} of the ledger is damaged: {self._folder / name} no "
                "longer has the SHA-256 that it is named by",
                remedy="Put it back from a copy of the folder, and look at the disk: "
                "see dmesg.",
            )
        return content

    def forget(self, name: str) -> None:
        """Deletes a blob."""
        (self._folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes what a killed coordinator staged and never made durable."""
        for path in self._folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the threads."""
        self.drop()
        if self._pool is not None:
            self._pool.shutdown()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_kept(name: str, error: Exception) -> StateError:
    remedy = getattr(error, "help", None)
    if isinstance(error, OSError):
        remedy = disk_remedy(error)
    return StateError(f"blob {name[:12]} could not be kept: {error}", remedy=remedy)
