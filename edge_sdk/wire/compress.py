"""Zstandard where it is installed: level 3 going out, a capped decoder coming in."""

from __future__ import annotations

import io
from importlib.util import find_spec

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["ZSTD", "compress", "decompress"]

ZSTD = find_spec("zstandard") is not None
LEVEL = 3
MAX_WINDOW = 8 << 20  # bytes; what the decoder may hold beside its output


def compress(data: bytes) -> bytes:
    """One zstd frame that names its content's size.

    Raises:
        LocalProtocolError: If zstandard is not installed; it was offered then.
    """
    if not ZSTD:
        raise LocalProtocolError("zstandard is not installed here")
    import zstandard  # noqa: PLC0415 - an extra

    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def decompress(data: bytes, size: int) -> bytes:
    """The content of a frame, which must be exactly `size` bytes and all of `data`.

    The frame's own word on its size is checked first, and what comes out is read
    through a stream that stops at one byte more: 4 bytes can stand for 128 KiB.

    Raises:
        RemoteProtocolError: If it is anything else.
    """
    if not ZSTD:
        raise RemoteProtocolError("it is compressed, and zstd was not offered")
    import zstandard  # noqa: PLC0415 - an extra

    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size or frame.window_size > max(size, MAX_WINDOW):
            raise RemoteProtocolError(f"its frame is not one of {size} bytes")
        decoder = zstandard.ZstdDecompressor(max_window_size=max(size, MAX_WINDOW))
        with decoder.stream_reader(io.BytesIO(data)) as stream:
            content = stream.read(size + 1)
        if len(content) != size:
            raise RemoteProtocolError(f"its frame does not hold {size} bytes")
        once_more = decoder.decompressobj()  # bounded by now; it tells where it ends
        once_more.decompress(data)
        if not once_more.eof or once_more.unused_data:
            raise RemoteProtocolError("its frame is not where the bytes end")
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"its frame is damaged: {error}") from error
    return content
