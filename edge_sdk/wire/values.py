"""Payloads: a model's or an update's kept values, and a warm-up's evidence, as bytes.

Under a frozen mask both sides know the pattern, so an update is a CSR matrix per layer
of which only the values travel, in canonical order (layers in the model's order, rows
ascending, columns ascending), with the mask's digest to say which pattern is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.sparse import CsrTensor, Mask
from edge_sdk.wire.codec import pack, unpack

__all__ = [
    "CODECS",
    "Evidence",
    "Values",
    "pack_evidence",
    "pack_values",
    "unpack_evidence",
    "unpack_values",
]

CODECS = ("fp32",)
_DTYPES: dict[str, np.dtype[Any]] = {"f4": np.dtype("<f4"), "i8": np.dtype("<i8")}
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


@dataclass(frozen=True, eq=False)
class Values:
    """Kept values and the dense remainder, of a model or of a change to one.

    Attributes:
        mask_digest: Digest of the mask that the values stand on.
        masked: Weight name to float32 (nnz,), canonical CSR order.
        dense: Every other ``state_dict`` entry, float32 or int64.
    """

    mask_digest: bytes
    masked: Mapping[str, NDArray[np.float32]]
    dense: Mapping[str, NDArray[Any]]

    def csr(self, mask: Mask) -> dict[str, CsrTensor]:
        """Each masked layer as CSR; `CsrTensor.to_scipy` goes on from there."""
        return {n: CsrTensor.from_values(mask[n], v) for n, v in self.masked.items()}


@dataclass(frozen=True)
class Evidence:
    """What a warm-up returns: kept weights per layer, and nothing else."""

    counts: Mapping[str, int]


class _Array(msgspec.Struct, frozen=True):
    dtype: Literal["f4", "i8"]
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data: bytes


class _ValuesBody(msgspec.Struct, frozen=True, tag="values"):
    version: Literal[1]
    codec: Literal["fp32"]
    mask: Digest
    nnz: Annotated[int, msgspec.Meta(ge=0)]
    values: bytes  # float32 little-endian, (nnz,)
    dense: dict[str, _Array]


class _EvidenceBody(msgspec.Struct, frozen=True, tag="evidence"):
    version: Literal[1]
    counts: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


def pack_values(values: Values, mask: Mask, *, codec: str = "fp32") -> bytes:
    """The payload of a model or an update.

    Raises:
        LocalProtocolError: If a layer's values do not fit the mask, or the codec is
            unknown.
    """
    if codec not in CODECS:
        raise LocalProtocolError(f"codec {codec!r} is none of {', '.join(CODECS)}")
    for name in mask:
        if values.masked[name].shape != (mask.counts[name],):
            raise LocalProtocolError(
                f"layer {name} has {values.masked[name].shape} values, "
                f"its mask keeps {mask.counts[name]}"
            )
    parts = [np.ascontiguousarray(values.masked[n], "<f4").tobytes() for n in mask]
    return pack(
        _ValuesBody(
            version=1,
            codec="fp32",
            mask=mask.digest,
            nnz=mask.nnz,
            values=b"".join(parts),
            dense={name: _to_wire(name, a) for name, a in values.dense.items()},
        )
    )


def unpack_values(payload: bytes, mask: Mask) -> Values:
    """The values in a payload, checked against the mask they claim to stand on.

    Raises:
        RemoteProtocolError: If the payload is malformed, stands on another mask, has
            the wrong length, or holds a value that is not finite.
    """
    body = unpack(payload, _ValuesBody)
    if body.mask != mask.digest:
        raise RemoteProtocolError(
            f"it stands on mask {body.mask.hex()[:12]}, not {mask.digest.hex()[:12]}"
        )
    if body.nnz != mask.nnz or len(body.values) != 4 * mask.nnz:
        raise RemoteProtocolError(
            f"it has {len(body.values)} bytes for {body.nnz} values; "
            f"the mask keeps {mask.nnz}"
        )
    flat = np.frombuffer(body.values, "<f4")
    dense = {name: _from_wire(name, array) for name, array in body.dense.items()}
    if not np.isfinite(flat).all() or not all(
        np.isfinite(a).all() for a in dense.values()
    ):
        raise RemoteProtocolError("it holds a value that is not finite")
    ends = np.cumsum([mask.counts[n] for n in mask])
    masked = (
        dict(zip(mask, np.split(flat, ends[:-1]), strict=True)) if len(mask) else {}
    )
    return Values(mask.digest, masked, dense)


def pack_evidence(evidence: Evidence) -> bytes:
    """The payload of a warm-up: a few dozen bytes."""
    return pack(_EvidenceBody(version=1, counts=dict(evidence.counts)))


def unpack_evidence(payload: bytes, sizes: Mapping[str, int]) -> Evidence:
    """The evidence in a payload, checked against the layers' sizes.

    Raises:
        RemoteProtocolError: If it is malformed, names other layers, or counts more
            weights than a layer has.
    """
    body = unpack(payload, _EvidenceBody)
    if set(body.counts) != set(sizes):
        raise RemoteProtocolError("the evidence names other layers than the model's")
    for name, count in body.counts.items():
        if count > sizes[name]:
            raise RemoteProtocolError(
                f"layer {name} cannot keep {count} of {sizes[name]} weights"
            )
    return Evidence(body.counts)


def _to_wire(name: str, array: NDArray[Any]) -> _Array:
    kind = {"f": "f4", "i": "i8"}.get(array.dtype.kind)
    if kind is None:
        raise LocalProtocolError(f"entry {name} has dtype {array.dtype}; float or int")
    own = np.ascontiguousarray(array, _DTYPES[kind])
    return _Array("f4" if kind == "f4" else "i8", list(array.shape), own.tobytes())


def _from_wire(name: str, array: _Array) -> NDArray[Any]:
    dtype = _DTYPES[array.dtype]
    if math.prod(array.shape) * dtype.itemsize != len(array.data):
        raise RemoteProtocolError(f"entry {name} does not have the bytes of its shape")
    try:
        return np.frombuffer(array.data, dtype).reshape(array.shape)
    except ValueError as error:  # more axes than numpy has, or too long a one
        raise RemoteProtocolError(f"entry {name}: {error}") from error
