"""Payloads of a model or an update: its kept values and dense remainder, as bytes.

Under a frozen mask both sides know the pattern, so an update is a CSR matrix per layer
of which only the values travel, in canonical order (layers in the model's order, rows
ascending, columns ascending), with the mask's digest to say which pattern is meant. An
unfrozen mask's structure travels along when asked for.

The codec (`edge_sdk.wire.quantize`) is a name, with ``+zstd`` where compression may be
tried. It holds for the masked layers. Of the dense remainder, integers are exact,
batch-norm statistics are never coarser than fp16, and nothing is coarser than int8: it
is a few percent of a payload and touches every output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.sparse import CsrTensor, LayerShape, Mask
from edge_sdk.wire.codec import pack_large, unpack
from edge_sdk.wire.dense import Entry, all_from_wire, is_whole, to_wire
from edge_sdk.wire.quantize import (
    NAMES,
    ZSTD,
    compress,
    decode,
    decompress,
    encode,
    encoded_size,
)
from edge_sdk.wire.structure import decode_structure, encode_structure

__all__ = [
    "CODECS",
    "Values",
    "agreed",
    "largest_payload",
    "mask_in",
    "pack_values",
    "unpack_moved",
    "unpack_update",
    "unpack_values",
]

_ZSTD = "+zstd"
CODECS = NAMES + (tuple(name + _ZSTD for name in NAMES) if ZSTD else ())
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


@dataclass(frozen=True, eq=False)
class Values:
    """Kept values and the dense remainder, of a model or of a change to one.

    Attributes:
        mask_digest: Digest of the mask that the values stand on.
        masked: Weight name to float32 (nnz,), canonical CSR order.
        dense: Every other ``state_dict`` entry: out of a payload float32 or int64.
    """

    mask_digest: bytes
    masked: Mapping[str, NDArray[np.float32]]
    dense: Mapping[str, NDArray[Any]]

    def norm(self) -> float:
        """L2 norm over every float of an entry of the model."""
        own = [a for n, a in self.dense.items() if not n.startswith(".")]
        parts = [*self.masked.values(), *own]
        flat = [a.reshape(-1) for a in parts if a.dtype.kind == "f"]
        if not flat:
            return 0.0
        whole = np.concatenate(flat, dtype=np.float64)  # one call for all of them
        ends = itertools.accumulate([a.size for a in flat])
        floats = [whole[end - a.size : end] for a, end in zip(flat, ends, strict=True)]
        # Not a @ a: BLAS wakes its threads, and a 250 KB update costs the coordinator
        # 9.3 ms of CPU where it costs 6.1 so (tests/bench/bench_protocol.py).
        return math.sqrt(sum([float(np.einsum("i,i->", a, a)) for a in floats]))

    def csr(self, mask: Mask) -> dict[str, CsrTensor]:
        """Each masked layer as CSR; `CsrTensor.to_scipy` goes on from there."""
        return {n: CsrTensor.from_values(mask[n], v) for n, v in self.masked.items()}


class _ValuesBody(msgspec.Struct, frozen=True, tag="values", omit_defaults=True):
    version: Literal[1]
    codec: Literal["fp32", "fp16", "int8", "int4"]
    mask: Digest
    nnz: Annotated[int, msgspec.Meta(ge=0)]
    values: bytes  # each layer's tensor in the codec, one after the other
    dense: Annotated[dict[str, Entry], msgspec.Meta(max_length=1 << 16)]
    packing: Literal["raw", "zstd"] = "raw"  # of `values`
    structure: bytes = b""


def agreed(wanted: str, theirs: Sequence[str], *, zstd: bool = True) -> str:
    """The codec to use with a peer: the one wanted, or the next more exact it knows.

    Args:
        wanted: One of `quantize.NAMES`.
        theirs: What the peer says it knows; everybody knows fp32.
        zstd: Whether to compress where both sides can.

    Example:
        >>> agreed("int4", ["fp32", "fp16"])
        'fp16'
    """
    coarsest = NAMES.index(wanted)
    known = [name for name in NAMES[: coarsest + 1] if name in theirs]
    name = known[-1] if known else NAMES[0]
    packed = name + _ZSTD
    return packed if zstd and packed in CODECS and packed in theirs else name


def pack_values(
    values: Values,
    mask: Mask,
    *,
    codec: str = "fp32",
    rng: np.random.Generator | None = None,
    structure: bool = False,
) -> bytes:
    """The payload of a model or an update.

    Args:
        values: What travels.
        mask: What they stand on.
        codec: One of `CODECS`.
        rng: For an update: rounds at random, so that the mean over devices and rounds
            is exact. A model (None) is rounded to the nearest.
        structure: Whether the mask's structure travels along.

    Raises:
        LocalProtocolError: If a layer's values do not fit the mask, the codec is
            unknown, or it is not fp32 and a value is not finite.
    """
    if codec not in CODECS:
        raise LocalProtocolError(f"codec {codec!r} is none of {', '.join(CODECS)}")
    name = codec.removesuffix(_ZSTD)
    for layer in mask:
        if values.masked[layer].shape != (mask.counts[layer],):
            raise LocalProtocolError(
                f"layer {layer} has {values.masked[layer].shape} values, "
                f"its mask keeps {mask.counts[layer]}"
            )
    raw = b"".join(encode(name, values.masked[layer], rng=rng) for layer in mask)
    small = compress(raw) if codec != name else raw
    return pack_large(
        _ValuesBody(
            version=1,
            codec=name,  # type: ignore[arg-type]  # one of CODECS, checked above
            mask=mask.digest,
            nnz=mask.nnz,
            values=min(raw, small, key=len),
            dense={k: to_wire(k, a, name, rng) for k, a in values.dense.items()},
            packing="zstd" if len(small) < len(raw) else "raw",
            structure=encode_structure(mask) if structure else b"",
        )
    )


def unpack_values(payload: bytes, mask: Mask, *, codec: str | None = None) -> Values:
    """The values in a payload, checked against the mask they claim to stand on.

    Args:
        payload: What `pack_values` made.
        mask: The pattern that is meant.
        codec: The one agreed; None takes any, as a base says itself what it is.

    Raises:
        RemoteProtocolError: If the payload is malformed, stands on another mask, is in
            another codec, has the wrong length, or holds a value that is not finite.
    """
    return _values_of(unpack(payload, _ValuesBody), mask, codec)


def _values_of(body: _ValuesBody, mask: Mask, codec: str | None) -> Values:
    if body.mask != mask.digest:
        raise RemoteProtocolError(
            f"it was made with mask {body.mask.hex()[:12]}, not "
            f"{mask.digest.hex()[:12]}"
        )
    if codec is not None:
        _check_codec(body, codec)
    counts, nnz = mask.counts, sum(mask.counts.values())
    sizes = [encoded_size(body.codec, count) for count in counts.values()]
    packed = body.packing == "zstd"
    if body.nnz != nnz or (not packed and len(body.values) != sum(sizes)):
        raise RemoteProtocolError(
            f"it has {len(body.values)} bytes for {body.nnz} {body.codec} values; "
            f"the mask keeps {nnz}"
        )
    whole = decompress(body.values, sum(sizes)) if packed else body.values
    raw = memoryview(whole)  # a slice of it is no copy
    masked: dict[str, NDArray[np.float32]] = {}
    start = 0
    # Looked at as a whole, floats take less than layer by layer.
    flat = decode("fp32", raw, nnz) if body.codec == "fp32" else None
    for (name, count), size in zip(counts.items(), sizes, strict=True):
        if flat is None:
            masked[name] = decode(body.codec, raw[start : start + size], count)
        else:
            masked[name] = flat[start // 4 : start // 4 + count]
        start += size
    dense = all_from_wire(body.dense)
    return Values(mask.digest, masked, dense)


def mask_in(payload: bytes, layers: Sequence[LayerShape]) -> Mask | None:
    """The mask whose structure a payload carries, or None if it carries none.

    Raises:
        RemoteProtocolError: If the payload or the structure is malformed, or it is not
            the mask that the values stand on.
    """
    body = unpack(payload, _ValuesBody)
    if not body.structure:
        return None
    return decode_structure(body.structure, layers, body.mask)


def unpack_moved(
    payload: bytes, mask: Mask, *, codec: str | None = None
) -> tuple[Mask, Values]:
    """The values in a payload that brings its own mask along, and that mask.

    Args:
        payload: What `pack_values(..., structure=True)` made.
        mask: The mask that training began with: what moved has its layers, and keeps
            at most as many weights in all.
        codec: The one agreed; None takes any.

    Raises:
        RemoteProtocolError: If it brings none, brings a larger one, or is malformed.
    """
    body = unpack(payload, _ValuesBody)
    if not body.structure:
        raise RemoteProtocolError("it does not name the mask of its values")
    return _moved(body, mask, codec)


def unpack_update(payload: bytes, mask: Mask) -> tuple[Mask, Values]:
    """The values in a payload, on this mask or on one that it brings along.

    Args:
        payload: What `pack_values` made.
        mask: The mask that training began with.

    Raises:
        RemoteProtocolError: As `unpack_values` and `unpack_moved`.
    """
    body = unpack(payload, _ValuesBody)
    if not body.structure:
        return mask, _values_of(body, mask, None)
    return _moved(body, mask, None)


def _moved(body: _ValuesBody, mask: Mask, codec: str | None) -> tuple[Mask, Values]:
    layers = [LayerShape(n, mask[n].shape) for n in mask]
    moved = decode_structure(body.structure, layers, body.mask)
    if moved.nnz > mask.nnz:
        raise RemoteProtocolError(
            f"its mask keeps {moved.nnz} weights, the task's {mask.nnz}"
        )
    return moved, _values_of(body, moved, codec)


def largest_payload(
    codec: str, counts: Mapping[str, int], dense: Mapping[str, NDArray[Any]]
) -> int:
    """Bytes that an honest payload's values take at most, without names and headers.

    Raises:
        LocalProtocolError: If the codec is unknown.
    """
    name = codec.removesuffix(_ZSTD)
    masked = sum(encoded_size(name, count) for count in counts.values())
    # As they travel, not as they lie here: a boolean takes 8 bytes, a half 4.
    wide = sum(a.size * (8 if is_whole(a.dtype) else 4) for a in dense.values())
    return masked + wide


def _check_codec(body: _ValuesBody, codec: str) -> None:
    name = codec.removesuffix(_ZSTD)
    if body.codec != name or (body.packing == "zstd" and codec == name):
        raise RemoteProtocolError(
            f"it is in codec {body.codec}, {body.packing}; {codec} was agreed"
        )
