"""A mask's CSR structure as bytes: per layer the smallest of three codes.

======  ==========================================================================
csr     int32 indptr (rows + 1,), int32 indices (nnz,), as `CsrTensor` has them
gap     Rice code of the gaps between kept positions of the flattened layer: all low
        parts of k bits, then all high parts in unary (so many 0, then 1)
bitmap  one bit per weight
======  ==========================================================================

Bits run from the lowest of each byte; the last byte is filled with zeros. At density
0.05 a gap takes about 6.3 bits (32 for an index of CSR, 20 for the bitmap's share).
Under a frozen mask none of it travels: both sides draw the mask from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import RemoteProtocolError, SparsityError
from edge_sdk.sparse import CsrTensor, LayerShape, Mask
from edge_sdk.wire.codec import pack_large, unpack

__all__ = [
    "CODES",
    "Code",
    "decode_structure",
    "encode_structure",
    "largest_structure",
]

Code: TypeAlias = Literal["csr", "gap", "bitmap"]
CODES: tuple[Code, ...] = ("csr", "gap", "bitmap")
MAX_LOW_BITS = 31
Bits: TypeAlias = NDArray[np.uint8]


class _Layer(msgspec.Struct, frozen=True, array_like=True):
    code: Code
    nnz: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
    low_bits: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOW_BITS)]  # of the gap code
    data: bytes


class _Structure(msgspec.Struct, frozen=True, tag="structure"):
    version: Literal[1]
    layers: Annotated[dict[str, _Layer], msgspec.Meta(max_length=1 << 16)]


def encode_structure(mask: Mask, *, codes: Sequence[Code] = CODES) -> bytes:
    """The bytes of a mask.

    Args:
        mask: Its layers' names travel, their shapes do not: both sides have the model.
        codes: The codes to choose from, per layer.
    """
    layers = {name: _encode_layer(mask[name], codes) for name in mask}
    return pack_large(_Structure(version=1, layers=layers))


def decode_structure(data: bytes, layers: Sequence[LayerShape], digest: bytes) -> Mask:
    """The mask in the bytes.

    Args:
        data: What `encode_structure` made.
        layers: The receiver's own model: nothing larger is ever built.
        digest: Of the mask that is meant.

    Raises:
        RemoteProtocolError: If the bytes are malformed, name other layers, or make a
            mask of another digest.
    """
    found = unpack(data, _Structure).layers
    if set(found) != {layer.name for layer in layers}:
        raise RemoteProtocolError("the structure names other layers than the model's")
    mask = Mask({s.name: _decode_layer(s, found[s.name]) for s in layers})
    if mask.digest != digest:
        raise RemoteProtocolError(
            f"the structure is mask {mask.digest.hex()[:12]}, "
            f"{digest.hex()[:12]} was meant"
        )
    return mask


def largest_structure(sizes: Mapping[str, int]) -> int:
    """Bytes that an honest structure takes at most: no layer passes its bitmap.

    Args:
        sizes: Weight name to number of weights.
    """
    return sum(-(-size // 8) + len(name) + 32 for name, size in sizes.items()) + 64


def _encode_layer(pattern: NDArray[np.bool_], codes: Sequence[Code]) -> _Layer:
    made = [_ENCODERS[code](pattern) for code in codes]
    return min(made, key=lambda layer: len(layer.data) + len(layer.code))


def _encode_csr(pattern: NDArray[np.bool_]) -> _Layer:
    empty = np.zeros(int(np.count_nonzero(pattern)), np.float32)
    csr = CsrTensor.from_values(pattern, empty)
    data = csr.indptr.astype("<i4").tobytes() + csr.indices.astype("<i4").tobytes()
    return _Layer("csr", csr.nnz, 0, data)


def _encode_gap(pattern: NDArray[np.bool_]) -> _Layer:
    spots = np.flatnonzero(pattern)
    if spots.size == 0:
        return _Layer("gap", 0, 0, b"")
    gaps = np.diff(spots, prepend=-1) - 1  # >= 0
    low_bits = _rice_bits(float(gaps.mean()))
    ends = np.cumsum((gaps >> low_bits) + 1) - 1
    high = np.zeros(int(ends[-1]) + 1, np.uint8)
    high[ends] = 1
    low = gaps[:, None] >> np.arange(low_bits) & 1
    data = _bytes_of(low.astype(np.uint8).reshape(-1)) + _bytes_of(high)
    return _Layer("gap", int(spots.size), low_bits, data)


def _encode_bitmap(pattern: NDArray[np.bool_]) -> _Layer:
    bits = pattern.reshape(-1).view(np.uint8)
    return _Layer("bitmap", int(np.count_nonzero(bits)), 0, _bytes_of(bits))


_ENCODERS = {"csr": _encode_csr, "gap": _encode_gap, "bitmap": _encode_bitmap}


def _rice_bits(mean: float) -> int:
    """Low bits that make geometric gaps of this mean shortest, within one."""
    return min(max(0, math.floor(math.log2(mean + 1) - 0.5)), MAX_LOW_BITS)


def _decode_layer(shape: LayerShape, layer: _Layer) -> NDArray[np.bool_]:
    if layer.nnz > shape.numel:
        raise RemoteProtocolError(
            f"layer {shape.name} cannot keep {layer.nnz} of {shape.numel} weights"
        )
    try:
        flat = _DECODERS[layer.code](shape, layer)
    except (SparsityError, RemoteProtocolError) as error:
        raise RemoteProtocolError(f"structure of {shape.name}: {error}") from error
    if np.count_nonzero(flat) != layer.nnz:
        raise RemoteProtocolError(f"structure of {shape.name}: not {layer.nnz} weights")
    return flat.reshape(shape.shape)


def _decode_csr(shape: LayerShape, layer: _Layer) -> NDArray[np.bool_]:
    rows = shape.shape[0]
    if len(layer.data) != 4 * (rows + 1 + layer.nnz):
        raise RemoteProtocolError("wrong length")
    both = np.frombuffer(layer.data, "<i4").astype(np.int32)
    empty = np.zeros(layer.nnz, np.float32)
    return CsrTensor(
        (rows, shape.numel // rows), both[: rows + 1], both[rows + 1 :], empty
    ).pattern()


def _decode_gap(shape: LayerShape, layer: _Layer) -> NDArray[np.bool_]:
    flat = np.zeros(shape.numel, np.bool_)
    split = -(-layer.nnz * layer.low_bits // 8)
    longest = split + (layer.nnz + (shape.numel >> layer.low_bits) + 7) // 8
    if not split <= len(layer.data) <= longest:
        raise RemoteProtocolError("wrong length")
    low = _bits_of(layer.data[:split], layer.nnz * layer.low_bits)
    high = np.unpackbits(np.frombuffer(layer.data[split:], np.uint8), bitorder="little")
    ends = np.flatnonzero(high)
    if ends.size != layer.nnz or high.size - (ends[-1] + 1 if ends.size else 0) >= 8:
        raise RemoteProtocolError("wrong number of gaps")
    lows = np.zeros(layer.nnz, np.int64)  # bit by bit: at once takes 8 bytes per bit
    for bit, column in enumerate(low.reshape(layer.nnz, layer.low_bits).T):
        lows |= column.astype(np.int64) << bit
    quotients = np.diff(ends, prepend=-1) - 1
    spots = np.cumsum((quotients << layer.low_bits) + lows + 1) - 1
    if spots.size and spots[-1] >= shape.numel:
        raise RemoteProtocolError("a position beyond the layer's end")
    flat[spots] = True
    return flat


def _decode_bitmap(shape: LayerShape, layer: _Layer) -> NDArray[np.bool_]:
    return _bits_of(layer.data, shape.numel).astype(np.bool_)


_DECODERS = {"csr": _decode_csr, "gap": _decode_gap, "bitmap": _decode_bitmap}


def _bytes_of(bits: Bits) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _bits_of(data: bytes, count: int) -> Bits:
    if len(data) != -(-count // 8):
        raise RemoteProtocolError("wrong length")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count:].any():
        raise RemoteProtocolError("a bit beyond its end")
    return bits[:count]
