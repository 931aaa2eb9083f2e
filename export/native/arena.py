"""Layout of activations: buffers not needed at the same time share memory."""

from __future__ import annotations

from export.native.program import Program

__all__ = ["buffer_order", "place_buffers"]

_GUARD = 32  # floats


def buffer_order(program: Program) -> list[int]:
    """Buffers as the file numbers them: the input first, the output last, no unused."""
    used = {b for o in program.operations for b in (*o.reads(), o.out)}
    middle = sorted(used - {0, program.output})
    return [0, *middle, program.output]


def place_buffers(program: Program) -> tuple[dict[int, int], int]:
    """Offset of each buffer: largest first, each as low as the live ones permit.

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
