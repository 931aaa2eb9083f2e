"""The bytes of a ``.flsp`` file: weights as kernels read them, header, checksum."""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.infer.own import HEADER
from edge_sdk.json_text import to_json
from export.native.arena import buffer_order, place_buffers
from export.native.program import Kind, Operation, Program, Weight
from export.passes.name_weights import TRANSPOSED
from export.passes.packing import gap_list

__all__ = [
    "LEAST_INT8",
    "MOST_USES",
    "VERSION",
    "Encoding",
    "Stored",
    "quantised",
    "store_weights",
    "stores_int8",
    "write",
]

VERSION = 2
_BUFFER = struct.Struct("<iiiiQ")
_WEIGHT = struct.Struct("<iiiiQQQQQQ")
_OPERATION = struct.Struct("<15i3f")
_ALIGN = 64
_FLOAT, _INT8 = 0, 1
LEAST_INT8 = 1024  # smaller matrices stay float32: nothing is saved
# Above these densities the runtime's dense kernels are faster than its sparse ones.
_DENSE_CONV, _DENSE_LINEAR = 0.7, 0.5
_PER_VALUE = {Kind.AFFINE, Kind.SLOPE, Kind.COLUMN_AFFINE}  # factors, no matrices
MOST_USES = 16  # of one copy of a weight, as the runtime allows (src/check.cpp)
_GROUP = 4  # rows of a dense convolution that lie beside each other


class Encoding(enum.IntEnum):
    """Layout of a matrix in the file, and so the kernel that runs it (src/format.h)."""

    ROWS = 0
    GAPS = 1
    GROUPS = 2


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as it is stored.

    Attributes:
        encoding: How its values are ordered.
        values: float32 or int8 (entries,).
        gaps: uint8 (entries,) of `Encoding.GAPS`, else empty.
        counts: uint32 (rows,) likewise.
        scales: float32 (rows,) of int8 values, else empty.
    """

    encoding: Encoding
    values: NDArray[Any]
    gaps: NDArray[np.uint8]
    counts: NDArray[np.uint32]
    scales: NDArray[np.float32]


def store_weights(program: Program, *, int8: bool) -> list[Stored]:
    """Every weight of a program, ordered for the kernel that its operation runs on."""
    users = {o.weight: o for o in program.operations if o.weight >= 0}
    return [
        _store(weight, users[index], int8=int8)
        for index, weight in enumerate(program.weights)
    ]


def _store(weight: Weight, user: Operation, *, int8: bool) -> Stored:
    values: NDArray[Any] = weight.matrix
    scales = np.zeros(0, np.float32)
    if int8 and stores_int8(weight, user):
        values, scales = quantised(weight.matrix)
    keep = weight.matrix != 0
    encoding = _encoding(user, float(keep.mean()))
    if encoding is not Encoding.GAPS:
        if encoding is Encoding.GROUPS:
            values = _grouped(values)
        none = np.zeros(0, np.uint8), np.zeros(0, np.uint32)
        return Stored(encoding, values.reshape(-1), *none, scales)
    rows = [
        gap_list(np.flatnonzero(k), v[k]) for k, v in zip(keep, values, strict=True)
    ]
    return Stored(
        encoding,
        np.concatenate([filled for _, filled in rows]),
        np.concatenate([gaps for gaps, _ in rows]),
        np.array([len(gaps) for gaps, _ in rows], np.uint32),
        scales,
    )


def stores_int8(weight: Weight, user: Operation) -> bool:
    """Tell matrices that an int8 file rounds from those that it keeps."""
    matrix = weight.rounds and user.kind not in _PER_VALUE
    return matrix and weight.matrix.size >= LEAST_INT8


def _encoding(user: Operation, density: float) -> Encoding:
    if user.kind in _PER_VALUE:
        return Encoding.ROWS
    if user.kind in {Kind.LINEAR, Kind.RECURRENT, Kind.LOOK_UP}:
        return Encoding.ROWS if density >= _DENSE_LINEAR else Encoding.GAPS
    dense = user.groups == 1 and density >= _DENSE_CONV
    return Encoding.GROUPS if dense else Encoding.GAPS


def _grouped(values: NDArray[Any]) -> NDArray[Any]:
    """(rows, columns) to (groups, columns, 4); the last group is filled with zeros."""
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % _GROUP), (0, 0)))
    return np.swapaxes(padded.reshape(-1, _GROUP, columns), 1, 2)


def write(
    program: Program,
    facts: Mapping[str, Any],
    *,
    int8: bool = False,
    personal: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> bytes:
    """The file's bytes; equal programs and facts give equal bytes.

    Args:
        program: What the file holds.
        facts: Its metadata.
        int8: Whether large matrices are rounded.
        personal: Entries that devices have values of their own for; the metadata says
            where those lie that are in the file as they are.
    """
    offsets, arena = place_buffers(program)
    order = buffer_order(program)
    body = bytearray(HEADER.size)
    stored = store_weights(program, int8=int8)
    records = _append_weights(body, program.weights, stored)
    buffers = b"".join(
        _BUFFER.pack(
            program.shapes[b].channels,
            program.shapes[b].height,
            program.shapes[b].width,
            0,
            offsets[b],
        )
        for b in order
    )
    place = {buffer: index for index, buffer in enumerate(order)}
    operations = b"".join(
        _OPERATION.pack(
            o.kind, place[o.source], place.get(o.second, -1), place[o.out], o.weight,
            *o.kernel, *o.stride, *o.pad, *o.dilation, o.groups, o.extra, o.input_scale,
            o.low, o.high,
        )
        for o in program.operations
    )  # fmt: skip
    places = _places(program, stored, records, personal)
    said = {**facts, "personal": places} if personal else dict(facts)
    meta = to_json(said, sort_keys=True).encode()
    at = [_append(body, np.frombuffer(part, np.uint8)) for part in (
        buffers, b"".join(records), operations, meta
    )]  # fmt: skip
    counts = len(order), len(records), len(program.operations)
    crc = zlib.crc32(memoryview(body)[HEADER.size :])
    body[: HEADER.size] = HEADER.pack(
        b"FLSP", VERSION, len(body), crc, *counts, arena, *at, len(meta)
    )
    return bytes(body)


def _append_weights(
    body: bytearray, weights: Sequence[Weight], stored: Sequence[Stored]
) -> list[bytes]:
    """Arrays and records of all weights; several uses of one layer share arrays."""
    records: list[bytes] = []
    lying: dict[tuple[Any, ...], list[bytes]] = {}
    for weight, item in zip(weights, stored, strict=True):
        arrays = item.values, item.gaps, item.counts, item.scales, weight.bias
        rows, columns = weight.matrix.shape
        kind = _INT8 if item.scales.size else _FLOAT
        shape = item.encoding, kind, rows, columns, item.values.size
        digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).digest()
        uses = lying.setdefault((weight.layer, *shape, digest), [])
        if len(uses) % MOST_USES:
            records.append(uses[-1])
        else:
            records.append(_WEIGHT.pack(*shape, *(_append(body, a) for a in arrays)))
        uses.append(records[-1])
    return records


def _places(
    program: Program,
    stored: list[Stored],
    records: list[bytes],
    personal: Mapping[str, NDArray[Any]],
) -> dict[str, list[int]]:
    """Personal entry to the byte of its first value and how many it has."""
    found: dict[str, list[int]] = {}
    for weight, item, record in zip(program.weights, stored, records, strict=True):
        layer = weight.layer.removesuffix(TRANSPOSED).rpartition(".")[0]
        values, *_, bias = _WEIGHT.unpack(record)[5:]
        plain = item.encoding is Encoding.ROWS and not item.scales.size
        for attribute, own, at in (
            ("weight", weight.matrix, values if plain else -1),
            ("bias", weight.bias, bias),
        ):
            name = f"{layer}.{attribute}"
            entry = personal.get(name)
            if (
                entry is not None
                and at >= 0
                and np.array_equal(entry.reshape(-1), own.reshape(-1))
            ):
                found[name] = [at, own.size]
    return found


def quantised(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per row: a zero stays zero."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales


def _append(body: bytearray, part: NDArray[Any]) -> int:
    """Adds a section at a multiple of 64 and says where."""
    body.extend(b"\0" * (-len(body) % _ALIGN))
    at = len(body)
    body.extend(np.ascontiguousarray(part).tobytes())
    return at
