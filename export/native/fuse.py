"""Joins operations: a residual sum and a clip become part of the layer before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from export.native.program import (
    INFINITY,
    Binary,
    ElementFunction,
    Function,
    Kind,
    Operation,
    Program,
)

__all__ = ["fuse", "used"]

_SUMS = {Kind.CONV, Kind.LINEAR}
_CLIPS = {*_SUMS, Kind.MAX_POOL, Kind.AVERAGE_POOL, Kind.GLOBAL_AVERAGE, Kind.ADD,
          Kind.AFFINE, Kind.BINARY, Kind.FUNCTION, Kind.SLOPE, Kind.MATMUL,
          Kind.COLUMN_AFFINE, Kind.REDUCE_ROW}  # fmt: skip


def fuse(program: Program) -> Program:
    """The same program with fewer operations; values may differ in the last bit.

    A sum is joined with the later of the two layers it adds, so that the other one is
    there when it is needed.
    """
    operations: list[Operation | None] = list(program.operations)
    for index, operation in enumerate(operations):
        if operation is None:
            continue
        if operation.kind is Kind.ADD:
            _join_sum(operations, index, program)
        elif operation.kind is Kind.BINARY and operation.extra == Binary.TIMES:
            _join_sigmoid(operations, index, program)
        elif operation.kind is Kind.ACTIVATION and operation.extra == Function.CLIP:
            _join_clip(operations, index, program)
    return replace(program, operations=used(operations, program))


def used(
    operations: Sequence[Operation | None], program: Program
) -> tuple[Operation, ...]:
    """Operations whose results are read: several views of a value may have none."""
    wanted, kept = {program.output}, []
    for operation in reversed(operations):
        if operation is None:
            continue
        if operation.out in wanted or operation.weight >= 0:
            wanted.update(operation.reads())
            kept.append(operation)
    return tuple(reversed(kept))


def _maker(operations: list[Operation | None], buffer: int) -> int | None:
    """The one operation that writes a buffer; None for the input or a concat."""
    found = [i for i, o in enumerate(operations) if o is not None and o.out == buffer]
    return found[0] if len(found) == 1 else None


def _readers(operations: list[Operation | None], program: Program, buffer: int) -> int:
    count = sum(o.reads().count(buffer) for o in operations if o is not None)
    return count + (buffer == program.output)


def _unclipped(operation: Operation) -> bool:
    return operation.low == -INFINITY and operation.high == INFINITY


def _join_sum(operations: list[Operation | None], index: int, program: Program) -> None:
    add = operations[index]
    assert add is not None  # noqa: S101 - the caller looked
    makers = [(_maker(operations, b), b) for b in add.reads()]
    for maker, buffer in sorted(makers, key=lambda m: -1 if m[0] is None else -m[0]):
        layer = None if maker is None else operations[maker]
        if maker is None or layer is None or layer.kind not in _SUMS:
            continue
        other = next((b for b in add.reads() if b != buffer), None)
        if other is None or layer.second >= 0 or not _unclipped(layer):
            continue
        if _readers(operations, program, buffer) > 1:
            continue
        made = _maker(operations, other)
        if other != 0 and (made is None or made > maker):
            continue
        operations[maker] = replace(
            layer, second=other, out=add.out, low=add.low, high=add.high
        )
        operations[index] = None
        return


def _join_sigmoid(
    operations: list[Operation | None], index: int, program: Program
) -> None:
    """A value times its own sigmoid is one function, SiLU."""
    times = operations[index]
    assert times is not None  # noqa: S101 - the caller looked
    for value, gate in ((times.source, times.second), (times.second, times.source)):
        maker = _maker(operations, gate)
        made = None if maker is None else operations[maker]
        if maker is None or made is None or made.kind is not Kind.ACTIVATION:
            continue
        if made.extra != Function.SIGMOID or made.source != value:
            continue
        if not _unclipped(made) or _readers(operations, program, gate) > 1:
            continue
        silu = int(ElementFunction.SILU)
        operations[index] = replace(
            times, kind=Kind.FUNCTION, source=value, second=-1, extra=silu
        )
        operations[maker] = None
        return


def _join_clip(
    operations: list[Operation | None], index: int, program: Program
) -> None:
    clip = operations[index]
    assert clip is not None  # noqa: S101 - the caller looked
    maker = _maker(operations, clip.source)
    layer = None if maker is None else operations[maker]
    if maker is None or layer is None or layer.kind not in _CLIPS:
        return
    if not _unclipped(layer) or _readers(operations, program, clip.source) > 1:
        return
    operations[maker] = replace(layer, out=clip.out, low=clip.low, high=clip.high)
    operations[index] = None
