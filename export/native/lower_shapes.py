"""Lowering of what moves values: reshapes, transposes, slices, pads and resizes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape
from export.native.resize import resize_matrix
from export.passes.graph import attribute, attributes

__all__ = ["RULES", "permuted"]

_MOST_RUNS = 6  # of axes that are transposed
_TURNS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def _alias(low: Lowering, node: onnx.NodeProto) -> None:
    """The same values in another shape: read in it by whoever needs it."""
    low.full(node.output[0])
    low.alias(node.output[0], low.buffer(node, node.input[0]))


def permuted(
    low: Lowering, node: onnx.NodeProto, name: str, axes: list[int]
) -> tuple[int, tuple[int, ...]]:
    """A value with its axes in another order: its buffer, and the axes' sizes.

    Axes of one do not count, and axes that stay beside each other are one.
    """
    full = low.full(name)
    runs: list[list[int]] = []
    for axis in (a for a in axes if full[a] != 1):
        last = runs[-1][-1] if runs else None
        beside = last is not None and all(full[a] == 1 for a in range(last + 1, axis))
        if beside and last is not None and axis > last:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    sizes = tuple(full[a] for a in axes)
    if len(runs) <= 1:
        return low.buffer(node, name), sizes
    if len(runs) > _MOST_RUNS:
        raise low.refused(node, f"changes more than {_MOST_RUNS} axes")
    order = sorted(range(len(runs)), key=lambda run: runs[run][0])
    lengths = [prod(full[a] for a in runs[run]) for run in order]
    index = low.buffer(node, name)
    now = tuple(range(len(runs)))
    for first, second, turn in _moves(tuple(order.index(run) for run in now)):
        blocks = now[:first], now[first:second], now[second:]
        shape = Shape(*(prod(lengths[run] for run in block) for block in blocks))
        index = low.transposed(low.reshaped(node, index, shape), turn)
        now = tuple(run for block in turn for run in blocks[block])
    return index, sizes


def _moves(wanted: tuple[int, ...]) -> list[tuple[int, int, tuple[int, int, int]]]:
    """The fewest transposes of three axes that put axes into an order.

    Each sees the axes as three blocks: where the second and third begin (the first may
    be empty), and the order that the blocks are put into.
    """
    start = tuple(range(len(wanted)))
    come_from: dict[tuple[int, ...], Any] = {start: None}
    queue = deque([start])
    while wanted not in come_from:
        now = queue.popleft()
        cuts = combinations(range(len(now)), 2)
        for first, second in sorted(cuts, key=lambda cut: cut[0] == 0):
            blocks = now[:first], now[first:second], now[second:]
            for turn in _TURNS:
                after = tuple(run for block in turn for run in blocks[block])
                if after not in come_from:
                    come_from[after] = now, (first, second, turn)
                    queue.append(after)
    found = []
    while come_from[wanted] is not None:
        wanted, move = come_from[wanted]
        found.append(move)
    return found[::-1]


def _transpose(low: Lowering, node: onnx.NodeProto) -> None:
    rank = len(low.full(node.input[0]))
    axes = list(attribute(node, "perm", list(range(rank))[::-1]))
    index, _ = permuted(low, node, node.input[0], axes)
    low.alias(node.output[0], index)


def _part(
    low: Lowering, node: onnx.NodeProto, source: int, start: int, count: int, step: int
) -> int:
    """Every `step`-th place of a buffer's middle axis, from `start` on."""
    have = low.shapes[source]
    out = low.anonymous(Shape(have.channels, count, have.width))
    if have.channels == 1 and step == 1:  # whole channels, copied at once
        rows = low.reshaped(node, source, Shape(have.height, 1, have.width))
        taken = low.anonymous(Shape(count, 1, have.width))
        return low.emit(Operation(Kind.TAKE, rows, taken, extra=start))
    return low.emit(Operation(Kind.CROP, source, out, stride=(step, 1), pad=(start, 0)))


def _slice(low: Lowering, node: onnx.NodeProto) -> None:
    full = list(low.full(node.input[0]))
    lists = [low.constant(node, position) for position in range(1, 5)]
    starts, ends = (np.asarray(a).reshape(-1).tolist() for a in lists[:2])
    axes = range(len(starts)) if lists[2] is None else lists[2].reshape(-1).tolist()
    steps = [1] * len(starts) if lists[3] is None else lists[3].reshape(-1).tolist()
    index = low.buffer(node, node.input[0])
    for given, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = given % len(full)
        places = range(full[axis])[slice(start, end, step)]
        if step < 1 or not places:
            raise low.refused(node, "goes backwards, or takes nothing")
        if len(places) == full[axis]:
            continue
        seen = Shape(prod(full[:axis]), full[axis], prod(full[axis + 1 :]))
        source = low.reshaped(node, index, seen)
        index = _part(low, node, source, places[0], len(places), step)
        full[axis] = len(places)
    low.alias(node.output[0], index)


def _split(low: Lowering, node: onnx.NodeProto) -> None:
    axis, at = low.axis(node, 0), 0
    source = low.view(node, node.input[0], low.around(node.input[0], axis))
    for name in node.output:
        count = low.full(name)[axis]
        low.alias(name, _part(low, node, source, at, count, 1))
        at += count


def _gather(low: Lowering, node: onnx.NodeProto) -> None:
    """One index, or evenly spaced ones: a part of an axis."""
    indices = low.constants.get(node.input[1])
    if indices is None or node.input[0] in low.constants:
        raise low.refused(
            node,
            "looks rows up by values that are computed: indices that are constants and "
            "evenly spaced are supported",
        )
    axis = low.axis(node, 0)
    seen = low.around(node.input[0], axis)
    places = np.asarray(indices).reshape(-1) % seen.height
    step = int(places[1] - places[0]) if places.size > 1 else 1
    if step < 1 or (np.diff(places) != step).any():
        raise low.refused(node, "takes indices that are not evenly spaced")
    source = low.view(node, node.input[0], seen)
    part = _part(low, node, source, int(places[0]), places.size, step)
    low.alias(node.output[0], part)


def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    axis, at = low.axis(node, 0, node.output[0]), 0
    seen = low.around(node.output[0], axis)
    turned = seen.channels > 1
    middle = Shape(seen.height, seen.channels, seen.width)
    own = low.shape(node.output[0])
    if own.channels != seen.height:  # else its channels are joined as they lie
        own = Shape(seen.height, 1, seen.width)
    out = low.anonymous(middle) if turned else low.new(node.output[0], own)
    for name in node.input:
        around = low.around(name, axis)
        if turned:
            part = low.transposed(low.view(node, name, around), (1, 0, 2))
        else:
            part = low.view(node, name, Shape(around.height, own.height, own.width))
        low.emit(Operation(Kind.PLACE, part, out, extra=at))
        at += low.shapes[part].channels
    if turned:
        low.alias(node.output[0], low.transposed(out, (1, 0, 2)))


def _pad(low: Lowering, node: onnx.NodeProto) -> None:
    value, pads = low.constant(node, 2), low.constant(node, 1)
    if attribute(node, "mode", b"constant") != b"constant" or (value and float(value)):
        raise low.refused(node, "pads with something else than zeros")
    full = list(low.full(node.input[0]))
    axes = low.constant(node, 3)
    named = range(len(full)) if axes is None else np.asarray(axes).reshape(-1).tolist()
    around = np.asarray(pads).reshape(2, -1).T.tolist()
    index = low.buffer(node, node.input[0])
    for given, (before, behind) in zip(named, around, strict=True):
        axis = given % len(full)
        outer, inner = prod(full[:axis]), prod(full[axis + 1 :])
        for start, count, kind in (
            (max(-before, 0), full[axis] + min(before, 0) + min(behind, 0), Kind.CROP),
            (max(before, 0), full[axis] + before + behind, Kind.SPREAD),
        ):
            if count == full[axis]:
                continue
            source = low.reshaped(node, index, Shape(outer, full[axis], inner))
            out = low.anonymous(Shape(outer, count, inner))
            index = low.emit(Operation(kind, source, out, pad=(start, 0)))
            full[axis] = count
    low.alias(node.output[0], index)


def _resize(low: Lowering, node: onnx.NodeProto) -> None:
    """Whole multiples by copies of pixels; the rest as a matrix along each axis."""
    before, after = low.full(node.input[0]), low.full(node.output[0])
    if before[:2] != after[:2] or len(before) > 4:
        raise low.refused(node, "resizes other axes than height and width")
    a = attributes(node)
    scales = low.constant(node, 2)
    index, full = low.view(node, node.input[0]), list(before)
    matrices = []
    for axis in range(2, len(full)):
        given = None if scales is None or not scales.size else float(scales[axis])
        try:
            matrices.append(resize_matrix(before[axis], after[axis], given, a))
        except ValueError as error:
            raise low.refused(node, str(error)) from error
    factors = [_copies(matrix) for matrix in matrices]
    if all(factors):
        stride = (1, factors[0]) if len(factors) == 1 else (factors[0], factors[1])
        out = low.new(node.output[0])
        low.emit(Operation(Kind.UPSAMPLE, index, out, stride=stride))
        return
    for axis, matrix in enumerate(matrices, start=2):
        outer, inner = prod(full[:axis]), prod(full[axis + 1 :])
        seen = low.reshaped(node, index, Shape(outer, full[axis], inner))
        turned = low.transposed(seen, (1, 0, 2))
        weight = low.weight(f"{node.output[0]} axis {axis}", matrix, None)
        out = low.anonymous(Shape(after[axis], outer, inner))
        if low.shapes[out].pixels == 1:
            low.emit(Operation(Kind.LINEAR, turned, out, weight=weight))
        else:
            low.emit(Operation(Kind.CONV, turned, out, weight=weight))
        index = low.transposed(out, (1, 0, 2))
        full[axis] = after[axis]
    low.alias(node.output[0], index)


def _copies(matrix: NDArray[np.float32]) -> int:
    """Copies that the matrix makes of each pixel; 0 where it is another matrix."""
    out, size = (int(n) for n in matrix.shape)
    times = out // size
    if out % size or not (matrix == np.repeat(np.eye(size), times, axis=0)).all():
        return 0
    return times


def _cast(low: Lowering, node: onnx.NodeProto) -> None:
    if attribute(node, "to", 0) != onnx.TensorProto.FLOAT:
        raise low.refused(node, "casts to another dtype than float32")
    _alias(low, node)


RULES: dict[str, Callable[[Lowering, onnx.NodeProto], None]] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"), _alias
    ),
    "Cast": _cast,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Pad": _pad,
    "Resize": _resize,
}
