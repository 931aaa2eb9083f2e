"""The optional zstd layer around a model's file: size and digests, then one frame.

The head is a skippable frame of the zstd format, so ``zstd -d`` unpacks the file, too.
Its digest of the frame is compared before anything is unpacked, and works without the
library; its size bounds what is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import struct
from importlib.util import find_spec
from pathlib import Path

from edge_sdk.errors import CheckpointError, DependencyError

__all__ = [
    "SUFFIX",
    "compressed",
    "is_compressed",
    "plain_name",
    "read_plain",
    "require_zstd",
]

SUFFIX = ".zst"
_HEAD = struct.Struct("<II4sQ32s32s")  # magic, bytes that follow, tag, size, digests
_MAGIC, _TAG = 0x184D2A5E, b"FEZ1"
_LEVEL = 19  # a model is written once; the best that is unpacked with 8 MiB of window
_LARGEST = 2 << 30  # bytes; an ONNX file can be no larger
_BLOCK = 1 << 20


def compressed(content: bytes) -> bytes:
    """The file's bytes in a zstd layer; equal bytes give equal ones.

    Raises:
        DependencyError: If zstandard is not installed.
    """
    require_zstd("a zstd layer cannot be made")
    import zstandard  # noqa: PLC0415 - an extra

    frame = zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(content)
    digests = (hashlib.sha256(part).digest() for part in (content, frame))
    head = _HEAD.pack(_MAGIC, _HEAD.size - 8, _TAG, len(content), *digests)
    return head + frame


def is_compressed(path: Path) -> bool:
    """Tell by its name whether a model's file has the layer."""
    return path.suffix == SUFFIX


def plain_name(path: Path) -> Path:
    """The path without the layer's suffix: what its content is called."""
    return path.with_suffix("") if is_compressed(path) else path


def read_plain(path: Path) -> bytes:
    """A model's bytes, out of the layer if the file has one.

    Raises:
        CheckpointError: If the layer is damaged, or holds more than its head says.
        DependencyError: If it is sound and zstandard is not installed.
        OSError: If the file cannot be read.
    """
    data = path.read_bytes()
    return _unpacked(data, path) if is_compressed(path) else data


def _unpacked(data: bytes, path: Path) -> bytes:
    if len(data) < _HEAD.size:
        raise _damaged(path, "it ends inside its head")
    magic, rest, tag, size, digest, frame_digest = _HEAD.unpack_from(data)
    if (magic, rest, tag) != (_MAGIC, _HEAD.size - 8, _TAG):
        raise _damaged(path, "it does not begin as such a file does")
    frame = memoryview(data)[_HEAD.size :]
    if hashlib.sha256(frame).digest() != frame_digest:
        raise _damaged(path, "its digest is not that of its bytes")
    if size > _LARGEST:
        raise _damaged(path, f"it states {size:,} bytes, {_LARGEST:,} are allowed")
    require_zstd(f"{path} is compressed")
    import zstandard  # noqa: PLC0415 - an extra

    content = bytearray()
    try:
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise _damaged(path, f"its frame is not one of {size:,} bytes")
        decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20)
        with decoder.stream_reader(io.BytesIO(frame)) as stream:
            while len(content) <= size and (block := stream.read(_BLOCK)):
                content += block
    except zstandard.ZstdError as error:
        raise _damaged(path, f"its frame is no zstd: {error}") from error
    if len(content) != size or hashlib.sha256(content).digest() != digest:
        raise _damaged(path, f"its frame does not hold the {size:,} bytes it states")
    return bytes(content)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its zstd layer is damaged: {reason}",
        remedy="Copy it again, or build it again with --compress zstd.",
    )


def require_zstd(what: str) -> None:
    """Check that zstandard is installed.

    Raises:
        DependencyError: With what needs it, and the install line.
    """
    if find_spec("zstandard") is None:
        raise DependencyError(
            f"{what}, and zstandard is not installed here",
            remedy="pip install 'flash-edge[zstd]', or build without --compress.",
        )
