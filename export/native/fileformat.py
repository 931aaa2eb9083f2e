"""The bytes of a ``.flsp`` file: arena layout, weight encodings, header, checksum."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.native.program import Program, Weight
from export.packing import gap_list

__all__ = ["LEAST_INT8", "VERSION", "Stored", "dequantised", "store_weight", "write"]

VERSION = 1
_HEADER = struct.Struct("<4sIQIIIIQQQQQQ")
_BUFFER = struct.Struct("<iiiiQ")
_WEIGHT = struct.Struct("<iiiiQQQQQQ")
_OPERATION = struct.Struct("<16iff")
_ALIGN = 64
_GUARD = 32  # floats
_DENSE, _GAPS, _BITMASK = 0, 1, 2
_FLOAT, _INT8 = 0, 1
LEAST_INT8 = 1024  # smaller matrices stay float32: nothing is saved


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as it is stored.

    Attributes:
        encoding: 0 dense, 1 gaps, 2 bitmask.
        value_type: 0 float32, 1 int8 with a scale per row.
        values: (entries,).
        pattern: uint8; empty when dense.
        counts: uint32 (rows,) for gaps, else empty.
        scales: float32 (rows,) for int8, else empty.
    """

    encoding: int
    value_type: int
    values: NDArray[Any]
    pattern: NDArray[np.uint8]
    counts: NDArray[np.uint32]
    scales: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        parts = (self.values, self.pattern, self.counts, self.scales)
        return sum(part.nbytes for part in parts)


def dequantised(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix as the runtime sees it after int8 storage."""
    quantised, scales = _quantised(matrix)
    return quantised.astype(np.float32) * scales[:, None]


def store_weight(weight: Weight, *, int8: bool) -> Stored:
    """The smallest of the three encodings."""
    values: NDArray[Any] = weight.matrix
    scales = np.zeros(0, np.float32)
    if int8 and weight.matrix.size >= LEAST_INT8:
        values, scales = _quantised(weight.matrix)
    kind = _INT8 if scales.size else _FLOAT
    keep = weight.matrix != 0
    empty = np.zeros(0, np.uint8)
    none = np.zeros(0, np.uint32)
    bits = np.packbits(keep.reshape(-1), bitorder="little")
    rows = [
        gap_list(np.flatnonzero(k), v[k]) for k, v in zip(keep, values, strict=True)
    ]
    counts = np.array([len(g) for g, _ in rows], np.uint32)
    gaps = np.concatenate([g for g, _ in rows])
    filled = np.concatenate([v for _, v in rows])
    options = (
        Stored(_DENSE, kind, values.reshape(-1), empty, none, scales),
        Stored(_GAPS, kind, filled, gaps, counts, scales),
        Stored(_BITMASK, kind, values[keep], bits, none, scales),
    )
    return min(options, key=lambda stored: stored.size)


def write(program: Program, facts: Mapping[str, Any], *, int8: bool = False) -> bytes:
    """The file's bytes; equal programs and facts give equal bytes."""
    offsets, arena = _arena(program)
    order = _order(program)
    body = bytearray(_HEADER.size)
    stored = [store_weight(weight, int8=int8) for weight in program.weights]
    records = []
    for weight, item in zip(program.weights, stored, strict=True):
        parts = [
            _append(body, part)
            for part in (
                item.values,
                item.pattern,
                item.counts,
                item.scales,
                weight.bias,
            )
        ]
        rows, columns = weight.matrix.shape
        records.append(
            _WEIGHT.pack(
                item.encoding, item.value_type, rows, columns, item.values.size, *parts
            )
        )
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
            *o.kernel, *o.stride, *o.pad, *o.dilation, o.groups, o.extra, 0,
            o.low, o.high,
        )
        for o in program.operations
    )  # fmt: skip
    meta = json.dumps(dict(facts), sort_keys=True).encode()
    at = [_append(body, np.frombuffer(part, np.uint8)) for part in (
        buffers, b"".join(records), operations, meta
    )]  # fmt: skip
    counts = len(order), len(records), len(program.operations)
    crc = zlib.crc32(memoryview(body)[_HEADER.size :])
    body[: _HEADER.size] = _HEADER.pack(
        b"FLSP", VERSION, len(body), crc, *counts, arena, *at, len(meta)
    )
    return bytes(body)


def _quantised(
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


def _order(program: Program) -> list[int]:
    """Buffers as the file numbers them: the input first, the output last, no unused."""
    used = {b for o in program.operations for b in (*o.reads(), o.out)}
    middle = sorted(used - {0, program.output})
    return [0, *middle, program.output]


def _arena(program: Program) -> tuple[dict[int, int], int]:
    """Where each buffer lies: largest first, each as low as its neighbours in time let.

    A buffer lives from the first operation that writes it to the last that reads it.
    Between two buffers stay a few floats that nobody writes: packing reads whole
    vectors and drops what lies beside a row; another thread must not be writing that.
    """
    room = {b: shape.floats + _GUARD for b, shape in enumerate(program.shapes)}
    last = len(program.operations)
    begin: dict[int, int] = {0: -1}
    end: dict[int, int] = {program.output: last}
    for index, operation in enumerate(program.operations):
        begin.setdefault(operation.out, index)
        end[operation.out] = max(end.get(operation.out, 0), index)
        for buffer in operation.reads():
            end[buffer] = max(end.get(buffer, 0), index)
    order = sorted(begin, key=lambda b: (-room[b], b))
    offsets: dict[int, int] = {}
    for buffer in order:
        size = room[buffer]
        taken = sorted(
            (offsets[o], offsets[o] + room[o])
            for o in offsets
            if begin[o] <= end.get(buffer, last) and begin[buffer] <= end.get(o, last)
        )
        at = 0
        for low, high in taken:
            if at + size <= low:
                break
            at = max(at, high)
        offsets[buffer] = at
    arena = max(offsets[b] + room[b] for b in offsets)
    return offsets, arena
