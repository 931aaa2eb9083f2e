"""Blobs as files named by their SHA-256, one at a time: sums and what unmasks them.

So earlier versions kept updates, too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from coordinator.ledger.update_files import BlobPlace, not_kept
from edge_sdk.checkpoint import replace_file

__all__ = ["Blobs"]


class Blobs:
    """The blobs of one run that have a file of their own.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
                raise not_kept(name, error) from error
        return name

    def place(self, name: str) -> BlobPlace:
        """The place of a blob, if it is there."""
        return BlobPlace(self._folder / name)

    def forget(self, name: str) -> None:
        """Deletes a blob."""
        (self._folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes what a killed coordinator had not written whole."""
        for path in self._folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
