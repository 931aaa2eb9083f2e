"""Layout of activations: buffers not needed at the same time share memory."""

from __future__ import annotations

from export.native.program import Kind, Operation, Program

__all__ = ["buffer_order", "place_buffers"]

_GUARD = 32  # floats
_FUNCTIONS = {Kind.FUNCTION, Kind.ACTIVATION}


def buffer_order(program: Program) -> list[int]:
    """Buffers as the file numbers them: the input first, the output last, no unused."""
    used = {b for o in program.operations for b in (*o.reads(), o.out)}
    middle = sorted(used - {0, program.output})
    return [0, *middle, program.output]


def place_buffers(program: Program) -> tuple[dict[int, int], int]:
    """Offset of each buffer: largest first, each as low as the live ones permit.

    A buffer lives from the first operation that writes it to the last that reads it.
    What a chain of operations reads lives until its end: the runtime goes through
    them channel by channel (src/chain.cpp). A concatenation lives from the first of its
    parts: convolutions write into it (src/places.cpp). Between two buffers stay a few
    floats that nobody writes: packing reads whole vectors and drops what lies beside
    a row; another thread must not be writing that.
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
    for first, last_one in _chains(program):
        source = program.operations[first].source
        end[source] = max(end[source], last_one)
    for maker, whole in _places(program):
        begin[whole] = min(begin[whole], maker)
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


def _chains(program: Program) -> list[tuple[int, int]]:
    """First and last operation of each chain around a depth-wise convolution."""
    operations = program.operations

    def follows(index: int) -> bool:
        if not 0 < index < len(operations):
            return False
        return operations[index].source == operations[index - 1].out

    found = []
    for index, operation in enumerate(operations):
        if operation.kind is not Kind.CONV or operation.groups == 1:
            continue
        first = last = index
        if follows(first) and operations[first - 1].kind in _FUNCTIONS:
            first -= 1
        if follows(first) and _of_one_pixel(operations[first - 1]):
            first -= 1
        while follows(last + 1) and operations[last + 1].kind in {
            *_FUNCTIONS,
            Kind.GLOBAL_AVERAGE,
        }:
            last += 1
        found.append((first, last))
    return found


def _places(program: Program) -> list[tuple[int, int]]:
    """Convolutions whose result is part of a concatenation, and its buffer."""
    made = {o.out: i for i, o in enumerate(program.operations) if o.kind is Kind.CONV}
    return [
        (made[o.source], o.out)
        for o in program.operations
        if o.kind is Kind.PLACE and o.source in made
    ]


def _of_one_pixel(operation: Operation) -> bool:
    return operation.kind is Kind.CONV and operation.kernel == (1, 1)
