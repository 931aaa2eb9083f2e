"""Content-addressed blobs in chunks: manifests, assembly, what is still missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.messages import Manifest

__all__ = [
    "AROUND",
    "CHUNK_SIZE",
    "LARGEST_CHUNK",
    "Assembly",
    "ChunkStorage",
    "blob_id",
    "chunk_of",
    "chunk_size_for",
    "manifest_of",
    "positions",
]

CHUNK_SIZE = 64 * 1024  # bytes; larger packets make the broker's memory grow, see ADR 5
LARGEST_CHUNK = 256 * 1024  # bytes; of an update, where all take it, see ADR 133
AROUND = 1024  # bytes of topic, header, envelope and signature around a chunk, at most


def chunk_size_for(limit: int, most: int = CHUNK_SIZE) -> int:
    """Bytes of a chunk where one packet may take `limit` bytes, at most `most`.

    Raises:
        LocalProtocolError: If no chunk worth sending fits.
    """
    if limit < 2 * AROUND:
        raise LocalProtocolError(
            f"the broker takes packets of {limit} bytes; chunks need {2 * AROUND}",
            remedy="Raise the broker's limit for packets, to 128 KiB if you can.",
        )
    return min(most, limit - AROUND)


def manifest_of(content: bytes, chunk_size: int = CHUNK_SIZE) -> Manifest:
    """Size and digests of a blob.

    Raises:
        LocalProtocolError: If it is empty or has more chunks than a manifest may name.
    """
    count = -(-len(content) // chunk_size)
    if not 1 <= count <= 2048:
        raise LocalProtocolError(
            f"a blob of {len(content)} bytes makes {count} chunks of {chunk_size}; "
            "1 to 2048 can be sent",
            remedy="Raise the broker's limit for packets, or lower the density.",
        )
    return Manifest(
        sha256=hashlib.sha256(content).digest(),
        size=len(content),
        chunk_size=chunk_size,
        chunks=[
            hashlib.sha256(content[i * chunk_size : (i + 1) * chunk_size]).digest()
            for i in range(count)
        ],
    )


def blob_id(manifest: Manifest) -> str:
    """The name of a blob in topics and files: 64 hex digits."""
    return manifest.sha256.hex()


def chunk_of(content: bytes, manifest: Manifest, index: int) -> bytes:
    """The bytes of one chunk."""
    return content[index * manifest.chunk_size : (index + 1) * manifest.chunk_size]


def positions(ranges: Sequence[tuple[int, int]], limit: int) -> Iterable[int]:
    """The chunk indices in ``[start, stop)`` ranges, each once, all below the limit.

    Once: ranges that overlap must not multiply what one NEED can ask for.
    """
    seen: set[int] = set()
    for start, stop in ranges:
        for index in range(start, min(stop, limit)):
            if index not in seen:
                seen.add(index)
                yield index


class ChunkStorage(Protocol):
    """Storage of an assembly's chunks."""

    def put(self, index: int, chunk: bytes) -> None:
        """Keeps a chunk."""
        ...

    def get(self, index: int) -> bytes:
        """A chunk that may have been kept; its digest tells."""
        ...


class Assembly:
    """Chunks of one blob as they arrive, in any order, checked by their digests.

    Args:
        manifest: What the blob is.
        storage: Where its chunks are kept, and where some may be already; in memory
            without.
        whole: Whether the chunks are checked together, by the blob's own digest, when
            the last is here, and each only if that is not it. It halves the work of
            chunks that one peer alone sends.

    Raises:
        RemoteProtocolError: If the manifest contradicts itself.
    """

    def __init__(
        self,
        manifest: Manifest,
        storage: ChunkStorage | None = None,
        *,
        whole: bool = False,
    ) -> None:
        expected = -(-manifest.size // manifest.chunk_size)
        if expected != len(manifest.chunks):
            raise RemoteProtocolError(
                f"a manifest of {manifest.size} bytes names {len(manifest.chunks)} "
                f"chunks instead of {expected}"
            )
        self.manifest = manifest
        self._storage = storage or _InMemory()
        self._together = whole
        self._content: bytes | None = None  # once it is checked
        self._held = {
            index
            for index, digest in enumerate(manifest.chunks)
            if storage and hashlib.sha256(storage.get(index)).digest() == digest
        }

    def add(self, index: int, chunk: bytes) -> bool:
        """Takes a chunk; returns whether it was new.

        Raises:
            RemoteProtocolError: If it is not the chunk that the manifest names, or is
                the last and another was not; that one is missing from then on.
        """
        if index in self._held:
            return False
        if index >= len(self.manifest.chunks):
            raise RemoteProtocolError(f"chunk {index} is beyond the blob's end")
        start = index * self.manifest.chunk_size
        if len(chunk) != min(self.manifest.chunk_size, self.manifest.size - start):
            raise RemoteProtocolError(f"chunk {index} does not have its size")
        digest = b"" if self._together else hashlib.sha256(chunk).digest()
        if digest and digest != self.manifest.chunks[index]:
            raise _damaged(index)
        self._storage.put(index, bytes(chunk))
        self._held.add(index)
        if self._together and self.complete:
            try:
                self._content = self._joined()
            except RemoteProtocolError:
                self._drop_damaged()
                raise
        return True

    def _drop_damaged(self) -> None:
        """Raises for the first chunk that is wrong, which is missing from then on."""
        for index, digest in enumerate(self.manifest.chunks):
            if hashlib.sha256(self._storage.get(index)).digest() != digest:
                self._held.discard(index)
                raise _damaged(index)
        self._held.clear()  # each is as named, and all of them are not

    @property
    def received(self) -> int:
        """Chunks held."""
        return len(self._held)

    @property
    def complete(self) -> bool:
        """True once every chunk is here."""
        return len(self._held) == len(self.manifest.chunks)

    def missing(self, limit: int = 64) -> list[tuple[int, int]]:
        """Up to `limit` ranges ``[start, stop)`` of chunks that are not here."""
        ranges: list[tuple[int, int]] = []
        for index in range(len(self.manifest.chunks)):
            if index in self._held:
                continue
            if ranges and ranges[-1][1] == index:
                ranges[-1] = (ranges[-1][0], index + 1)
            elif len(ranges) == limit:
                break
            else:
                ranges.append((index, index + 1))
        return ranges

    def content(self) -> bytes:
        """The whole blob.

        Raises:
            RemoteProtocolError: If a chunk is missing or the whole has another digest.
        """
        if self._content is not None:
            return self._content
        if not self.complete:
            raise RemoteProtocolError("the blob is not complete")
        return self._joined()

    def _joined(self) -> bytes:
        chunks = range(len(self.manifest.chunks))
        whole = b"".join(map(self._storage.get, chunks))
        if hashlib.sha256(whole).digest() != self.manifest.sha256:
            raise RemoteProtocolError("the blob does not have its digest")
        return whole


def _damaged(index: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"chunk {index} does not have its digest")


class _InMemory:
    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}

    def put(self, index: int, chunk: bytes) -> None:
        self._chunks[index] = chunk

    def get(self, index: int) -> bytes:
        return self._chunks[index]
