"""Models a device has fetched, whole or in part, on its disk.

Content-addressed, so what is here need not come again: after a cut, a reboot, an
aborted round, or a round that changed nothing. Nothing is synced and nothing is
believed: every chunk is checked by its digest when its blob is opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from edge_sdk.errors import StateError
from edge_sdk.wire.blob import Assembly, blob_id
from edge_sdk.wire.messages import Manifest

__all__ = ["MAX_BYTES", "BlobFolder"]

MAX_BYTES = 256 << 20  # of all blobs together: two of the largest that can travel


class BlobFolder:
    """Blobs by their digest; the one not used for the longest time goes first.

    Args:
        folder: Where they lie; made when needed.
        max_bytes: What they may take together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max = folder, max_bytes

    def open(self, manifest: Manifest, keep: Iterable[Manifest] = ()) -> Assembly:
        """A blob with what is here of it.

        Args:
            manifest: The blob wanted.
            keep: Others that must stay, beside it.

        Raises:
            RemoteProtocolError: If the manifest contradicts itself.
            StateError: If there is no room for it.
        """
        path = self._folder / blob_id(manifest)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(manifest, {path.name, *map(blob_id, keep)})
            path.touch()
        except OSError as error:
            raise _no_room(path, error) from error
        return Assembly(manifest, _File(path, manifest.chunk_size))

    def forget(self, manifest: Manifest) -> None:
        """Deletes what is here of a blob."""
        with contextlib.suppress(OSError):
            (self._folder / blob_id(manifest)).unlink(missing_ok=True)

    def _make_room(self, manifest: Manifest, stay: set[str]) -> None:
        here = {p: p.stat() for p in self._folder.iterdir() if p.name not in stay}
        taken = manifest.size + sum(stat.st_size for stat in here.values())
        for path, stat in sorted(here.items(), key=lambda item: item[1].st_mtime_ns):
            if taken <= self._max:
                return
            path.unlink()
            taken -= stat.st_size


class _File:
    """The chunks of one blob at their places in one file."""

    def __init__(self, path: Path, chunk_size: int) -> None:
        self._path, self._size = path, chunk_size

    def put(self, index: int, chunk: bytes) -> None:
        try:
            with self._path.open("r+b") as file:
                file.seek(index * self._size)
                file.write(chunk)
        except OSError as error:
            raise _no_room(self._path, error) from error

    def get(self, index: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(index * self._size)
                return file.read(self._size)
        except OSError:  # somebody cleaned up: it is fetched again
            return b""


def _no_room(path: Path, error: OSError) -> StateError:
    return StateError(f"a model cannot be kept at {path}: {error.strerror or error}")
