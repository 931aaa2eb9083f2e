"""Value codecs: float32 tensors as fp32, fp16, int8 or int4 bytes, and back; zstd.

One tensor's bytes, all little-endian:

======  ==========================================================================
fp32    float32 (n,)
fp16    int16 exponent e, float16 (n,): value = half * 2**e
int8    int16 exponent e, float16 scale per block of 256, int8 (n,)
int4    int16 exponent e, float16 scale per block of 64, two codes a byte, low first
======  ==========================================================================

where value = code * scale * 2**e with codes in [-127, 127] or [-7, 7]. The exponent
brings the largest magnitude to the top of float16's range, so a tensor of tiny changes
keeps 11 bits like any other. Scales are rounded upwards: no value is ever clipped,
which is what keeps stochastic rounding unbiased. Everything is computed in float64
with correctly rounded operations only: equal input gives equal bytes everywhere.
"""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "NAMES",
    "ZSTD",
    "Toward",
    "compress",
    "decode",
    "decompress",
    "encode",
    "encoded_size",
]

NAMES = ("fp32", "fp16", "int8", "int4")  # most exact first
Toward: TypeAlias = Literal["nearest", "up", "down"]
Floats: TypeAlias = NDArray[np.float64]

_BLOCK = {"int8": 256, "int4": 64}
_TOP = {"int8": 127, "int4": 7}
_EXPONENTS = (-170, 113)  # of the smallest float32 / 127, and of the largest float32
_FLOAT32_MAX = float(np.finfo(np.float32).max)
ZSTD = find_spec("zstandard") is not None
LEVEL = 3
MAX_WINDOW = 8 << 20  # bytes; what the decoder may hold beside its output


@lru_cache(maxsize=1024)  # asked for each layer of each update
def encoded_size(codec: str, count: int) -> int:
    """Bytes of a tensor of `count` values.

    Raises:
        LocalProtocolError: If the codec is unknown.

    Example:
        >>> [encoded_size(codec, 1000) for codec in NAMES]
        [4000, 2002, 1010, 534]
    """
    if codec not in NAMES:
        raise LocalProtocolError(f"codec {codec!r} is none of {', '.join(NAMES)}")
    if count == 0:
        return 0
    if codec == "fp32":
        return 4 * count
    if codec == "fp16":
        return 2 + 2 * count
    blocks = -(-count // _BLOCK[codec])
    return 2 + 2 * blocks + (count if codec == "int8" else (count + 1) // 2)


def encode(
    codec: str,
    values: NDArray[Any],
    *,
    rng: np.random.Generator | None = None,
    toward: Toward = "nearest",
) -> bytes:
    """A tensor's bytes.

    Args:
        codec: One of `NAMES`.
        values: Floats of any shape, taken as float32 in C order.
        rng: Rounds integer codes up or down at random so that the mean of many is
            exact; without it they are rounded to the nearest.
        toward: Where fp16 rounds to; "up" never gives less than the value, "down"
            never more.

    Raises:
        LocalProtocolError: If the codec is unknown, or it is not fp32 and a value is
            not finite.
    """
    flat = np.ascontiguousarray(values, "<f4").reshape(-1)
    if encoded_size(codec, flat.size) == 0:
        return b""
    if codec == "fp32":
        return flat.tobytes()
    if not np.isfinite(flat).all():
        raise LocalProtocolError(
            f"a value that is not finite cannot be sent as {codec}"
        )
    exact = flat.astype(np.float64)
    if codec == "fp16":
        exponent, halves = _to_half(exact, toward)
        return _exponent_bytes(exponent) + halves.tobytes()
    return _encode_blocks(codec, exact, rng)


def decode(codec: str, data: bytes | memoryview, count: int) -> NDArray[np.float32]:
    """The values in a tensor's bytes, float32 (count,).

    Raises:
        RemoteProtocolError: If the length is not that of `count` values, or the bytes
            hold something that `encode` never writes, such as a value not finite.
    """
    if len(data) != encoded_size(codec, count):
        raise RemoteProtocolError(
            f"it has {len(data)} bytes for {count} {codec} values"
        )
    if codec == "fp32" or count == 0:
        found = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        if not np.isfinite(found).all():
            raise RemoteProtocolError("it holds a value that is not finite")
        return found
    exponent = int(np.frombuffer(data, "<i2", 1)[0])
    if not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
        raise RemoteProtocolError(f"it holds an exponent of {exponent}")
    exact = (
        _from_half(np.frombuffer(data, "<f2", offset=2), exponent)
        if codec == "fp16"
        else _decode_blocks(codec, data, count, exponent)
    )
    # The largest float32 may have been rounded up beyond itself.
    return np.clip(exact, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)


def _encode_blocks(codec: str, exact: Floats, rng: np.random.Generator | None) -> bytes:
    top = _TOP[codec]
    blocks = _in_blocks(exact, _BLOCK[codec])
    exponent, halves = _to_half(np.abs(blocks).max(axis=1) / top, "up")
    scales = _from_half(halves, exponent)[:, None]
    steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    steps = steps.reshape(-1)[: exact.size]
    rounded = (
        np.rint(steps) if rng is None else np.floor(steps + rng.random(exact.size))
    )
    codes = np.clip(rounded, -top, top).astype(np.int8)  # 127 + 1 ulp would wrap round
    return (
        _exponent_bytes(exponent)
        + halves.tobytes()
        + (codes.tobytes() if codec == "int8" else _pack_nibbles(codes))
    )


def _decode_blocks(
    codec: str, data: bytes | memoryview, count: int, exponent: int
) -> Floats:
    size = _BLOCK[codec]
    blocks = -(-count // size)
    halves = np.frombuffer(data, "<f2", blocks, offset=2)
    scales = _from_half(halves, exponent)
    if np.signbit(scales).any():
        raise RemoteProtocolError("it holds a negative scale")
    raw = data[2 + 2 * blocks :]
    if codec == "int8":
        codes = np.frombuffer(raw, np.int8)
    else:
        codes = _unpack_nibbles(raw, count)
    if (codes < -_TOP[codec]).any():
        raise RemoteProtocolError(f"it holds a code below -{_TOP[codec]}")
    exact: Floats = codes * np.repeat(scales, size)[:count]
    return exact


def _in_blocks(exact: Floats, size: int) -> Floats:
    """(blocks, size), the last one filled with zeros."""
    blocks = np.zeros((-(-exact.size // size), size))
    blocks.reshape(-1)[: exact.size] = exact
    return blocks


def _to_half(exact: Floats, toward: Toward) -> tuple[int, NDArray[np.float16]]:
    """Exponent and float16 (n,), the largest of them in [2**14, 2**15]."""
    peak = float(np.abs(exact).max())
    exponent = int(np.frexp(peak)[1]) - 15 if peak else 0
    scaled = np.ldexp(exact, -exponent)
    halves = scaled.astype("<f2")
    if toward != "nearest":
        up = toward == "up"
        wrong = halves < scaled if up else halves > scaled
        halves[wrong] = np.nextafter(
            halves[wrong], np.float16(np.inf if up else -np.inf)
        )
    return exponent, halves


def _from_half(halves: NDArray[np.float16], exponent: int) -> Floats:
    if not np.isfinite(halves).all():
        raise RemoteProtocolError("it holds a value that is not finite")
    return np.ldexp(halves.astype(np.float64), exponent)


def _exponent_bytes(exponent: int) -> bytes:
    return exponent.to_bytes(2, "little", signed=True)


def _pack_nibbles(codes: NDArray[np.int8]) -> bytes:
    even = np.zeros((codes.size + 1) // 2 * 2, np.uint8)
    even[: codes.size] = codes.view(np.uint8) & 15
    return (even[0::2] | even[1::2] << 4).tobytes()


def _unpack_nibbles(raw: bytes | memoryview, count: int) -> NDArray[np.int8]:
    pairs = np.frombuffer(raw, np.uint8)
    nibbles = np.empty(2 * pairs.size, np.uint8)
    nibbles[0::2], nibbles[1::2] = pairs & 15, pairs >> 4
    if nibbles[count:].any():
        raise RemoteProtocolError("it holds a code beyond its last value")
    # Shifted to the top of a byte and back: the nibble's sign becomes the byte's.
    return (nibbles[:count] << 4).view(np.int8) >> 4


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
