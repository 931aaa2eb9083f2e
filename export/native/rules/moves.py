"""Moves that rules share: axes in another order, repeated, or mapped by a matrix."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape

__all__ = ["expanded", "mapped", "ordered", "permuted", "picking", "repeated"]

_MOST_RUNS = 6  # of axes that are transposed
_TURNS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def permuted(
    low: Lowering, node: onnx.NodeProto, name: str, axes: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """A value with its axes in another order: its buffer, and the axes' sizes."""
    full = low.full(name)
    return ordered(low, node, low.buffer(node, name), full, axes), tuple(
        full[a] for a in axes
    )


def ordered(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    full: Sequence[int],
    axes: Sequence[int],
) -> int:
    """A buffer, seen with these axes, with its axes in another order.

    Axes of one do not count, and axes that stay beside each other are one.
    """
    runs: list[list[int]] = []
    for axis in (a for a in axes if full[a] != 1):
        last = runs[-1][-1] if runs else None
        beside = last is not None and all(full[a] == 1 for a in range(last + 1, axis))
        if beside and last is not None and axis > last:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) <= 1:
        return index
    if len(runs) > _MOST_RUNS:
        raise low.refused(node, f"changes more than {_MOST_RUNS} axes")
    order = sorted(range(len(runs)), key=lambda run: runs[run][0])
    lengths = [prod(full[a] for a in runs[run]) for run in order]
    now = tuple(range(len(runs)))
    for first, second, turn in _moves(tuple(order.index(run) for run in now)):
        blocks = now[:first], now[first:second], now[second:]
        shape = Shape(*(prod(lengths[run] for run in block) for block in blocks))
        seen = low.fitting(shape, node.output[0])
        index = low.transposed(low.reshaped(node, index, seen), turn)
        now = tuple(run for block in turn for run in blocks[block])
    return index


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


def repeated(
    low: Lowering, node: onnx.NodeProto, index: int, around: Shape, times: int
) -> int:
    """A buffer seen as (before, axis, behind) with its axis that often, in a row."""
    if times == 1:
        return index
    before, inner = around.channels, around.height * around.width
    if inner == 1:  # each value becomes a row
        seen, stride = Shape(before), (1, times)
        made = Shape(before, 1, times)
    else:
        seen, stride = Shape(before, 1, inner), (times, 1)
        made = Shape(before, times, inner)
    source = low.reshaped(node, index, low.fitting(seen, node.output[0]))
    return low.emit(
        Operation(Kind.UPSAMPLE, source, low.anonymous(made), stride=stride)
    )


def expanded(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    sizes: Sequence[int],
    wanted: Sequence[int],
) -> int:
    """A buffer of these sizes with its axes of one repeated, as in a broadcast."""
    have = [1] * (len(wanted) - len(sizes)) + list(sizes)
    axis = 0
    while axis < len(wanted):
        end = axis
        while end < len(wanted) and have[end] == 1 != wanted[end]:
            end += 1
        if end == axis:
            axis += 1
            continue
        times = prod(wanted[axis:end])
        around = Shape(prod(have[:axis]), 1, prod(have[end:]))
        index = repeated(low, node, index, around, times)
        have[axis:end] = wanted[axis:end]
        axis = end
    return index


def mapped(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    around: Shape,
    matrix: NDArray[Any],
    bias: NDArray[Any] | None = None,
) -> int:
    """A buffer seen as (before, axis, behind), its axis by a matrix (out, axis).

    As a convolution of one pixel, whose sparse kernels pass over zeros: it also picks
    values, or adds them up.
    """
    outer, inner = around.channels, around.width
    weight = low.weight(f"{node.output[0]} by {len(low.shapes)}", matrix, bias)
    if outer == inner == 1:
        out = low.anonymous(Shape(len(matrix)))
        source = low.reshaped(node, index, Shape(around.height))
        return low.emit(Operation(Kind.LINEAR, source, out, weight=weight))
    seen = low.reshaped(node, index, low.fitting(around, node.output[0]))
    turned = low.transposed(seen, (1, 0, 2))
    out = low.anonymous(Shape(len(matrix), outer, inner))
    low.emit(Operation(Kind.CONV, turned, out, weight=weight))
    return low.transposed(out, (1, 0, 2))


def picking(
    places: Sequence[int] | NDArray[np.int64], size: int
) -> NDArray[np.float32]:
    """The matrix that picks places of an axis; a place below 0 gives 0."""
    matrix = np.zeros((len(places), size), np.float32)
    for row, place in enumerate(places):
        if place >= 0:
            matrix[row, place] = 1
    return matrix
