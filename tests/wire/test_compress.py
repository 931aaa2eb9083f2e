from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.quantize import ZSTD, compress, decompress

pytestmark = pytest.mark.skipif(not ZSTD, reason="zstandard is not installed")


@given(st.binary(max_size=2000))
def test_content_comes_back_only_at_its_own_size(content: bytes) -> None:
    frame = compress(content)
    assert decompress(frame, len(content)) == content
    for wrong in (len(content) + 1, len(content) - 1):
        with pytest.raises(RemoteProtocolError, match="is not one of"):
            decompress(frame, wrong)


def test_every_truncation_and_whatever_follows_is_refused() -> None:
    content = bytes(range(256)) * 4
    frame = compress(content)
    for end in range(len(frame)):
        with pytest.raises(RemoteProtocolError):
            decompress(frame[:end], len(content))
    for more in (b"\0", frame):
        with pytest.raises(RemoteProtocolError):
            decompress(frame + more, len(content))


def test_a_frame_that_lies_about_its_size_is_not_unrolled() -> None:
    """The header says 1 000 bytes; the blocks behind it hold 64 MiB."""
    import zstandard

    honest = compress(bytes(1000))
    bomb = compress(bytes(1 << 26))
    at = zstandard.frame_header_size(bomb)
    lie = honest[: zstandard.frame_header_size(honest)] + bomb[at:]
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        decompress(lie, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_frame_without_its_size_is_refused() -> None:
    import zstandard

    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(RemoteProtocolError, match="is not one of 100 bytes"):
        decompress(silent, 100)


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_noise_is_refused(noise: bytes, size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decompress(noise, size)
