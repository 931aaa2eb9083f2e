"""Lowering of pools: of windows, and of all pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Binary, Kind, Operation, Reduction, Shape, Spread
from export.native.rules import volumes
from export.native.rules.arithmetic import Arithmetic
from export.native.rules.window import VOLUME, window_in
from export.passes.graph import attributes

__all__ = ["RULES"]

_MOST_PLACES = 2**24  # that float32 counts exactly


def _pool(low: Lowering, node: onnx.NodeProto) -> None:
    a = attributes(node)
    average = node.op_type == "AveragePool"
    if len(node.output) > 1:
        _with_places(low, node)
        return
    kind = Kind.AVERAGE_POOL if average else Kind.MAX_POOL
    deep = len(low.full(node.input[0])) == VOLUME
    counted, pads = int(a.get("count_include_pad", 0)), list(a.get("pads", []))
    index = low.view(node, node.input[0])
    up = average and a.get("ceil_mode", 0) and counted
    if up and deep and any(pads):
        raise low.refused(node, "counts a volume's padding and rounds its size up")
    if deep:  # what lies behind the volume never counts
        volumes.pool(low, node, kind, 0 if up else counted)
        return
    window = window_in(low, node)
    if up:  # the padding counts, what lies behind it does not
        counted, (top, left) = 0, window["pad"]
        behind = pads[len(pads) // 2 :] or [0]
        bottom, right = behind if len(behind) > 1 else (0, behind[0])
        have = low.shapes[index]
        whole = replace(
            have, height=have.height + top + bottom, width=have.width + left + right
        )
        padded, window = low.anonymous(whole), {**window, "pad": (0, 0)}
        index = low.emit(Operation(Kind.SPREAD, index, padded, pad=(top, left)))
    out = low.new(node.output[0])
    low.emit(Operation(kind, index, out, extra=counted, **window))


def _with_places(low: Lowering, node: onnx.NodeProto) -> None:
    """The largest of each window and its place in the whole value.

    Of a volume first in each slice, then along the depth.
    """
    full = low.full(node.input[0])
    if attributes(node).get("storage_order", 0):
        raise low.refused(node, "gives places column by column")
    if prod(full) > _MOST_PLACES:
        raise low.refused(
            node, f"counts {prod(full):,} places: up to {_MOST_PLACES:,} are supported"
        )
    if len(full) == VOLUME:
        window = volumes.window_of(low, node, attributes(node)["kernel_shape"])
        _, channels, depth, height, width = full
        deep, high, wide = low.full(node.output[0])[2:]
        made, sizes = (deep, high, wide), (depth, height, width)
        of_axes = (window.stride, window.before, window.kernel, window.dilation)
        taps = [_Taps(n, *(int(v[i]) for v in of_axes)) for i, n in enumerate(made)]
        planes = Shape(channels * depth, height, width)
        source = low.view(node, node.input[0], planes)
        best = _largest(low, node, source, None, taps[1:], width)
        seen = low.fitting(Shape(channels, depth, high * wide), node.output[0])
        source, places = (low.reshaped(node, index, seen) for index in best)
        along = [taps[0], _Taps(high * wide, 1, 0, 1, 1)]
        found, places = _largest(low, node, source, places, along, height * width)
        pixels = prod(sizes)
    else:
        flat = window_in(low, node)
        source, out = low.view(node, node.input[0]), low.shape(node.output[0])
        stride, pad, kernel, apart = (
            flat[key] for key in ("stride", "pad", "kernel", "dilation")
        )
        taps = [
            _Taps(n, stride[i], pad[i], kernel[i], apart[i])
            for i, n in enumerate((out.height, out.width))
        ]
        have = low.shapes[source]
        found, places = _largest(low, node, source, None, taps, have.width)
        channels, pixels = have.channels, have.pixels
    low.alias(node.output[0], found)
    shifts = np.arange(channels, dtype=np.float32) * pixels
    weight = low.weight(node.output[0], np.ones((channels, 1)), shifts)
    moved = low.anonymous(low.shapes[places])
    low.emit(Operation(Kind.AFFINE, places, moved, weight=weight))
    low.alias(node.output[1], moved)


@dataclass(frozen=True)
class _Taps:
    """Windows along one axis: how many, and what each reads."""

    count: int
    stride: int
    pad: int
    kernel: int
    dilation: int

    @property
    def places(self) -> NDArray[np.int64]:
        """Places that each reads, (count, kernel); some may lie outside."""
        first = np.arange(self.count)[:, None] * self.stride - self.pad
        return first + np.arange(self.kernel) * self.dilation


def _largest(
    low: Lowering,
    node: onnx.NodeProto,
    source: int,
    carried: int | None,
    taps: Sequence[_Taps],
    row: int,
) -> tuple[int, int]:
    """The largest of each window and its place in the channel, tap by tap.

    A later tap counts where it is larger, so that of equal values the first has it.

    Args:
        low: The program.
        node: The pool.
        source: Values.
        carried: Places that the values have already, below those of a row; None: each
            column is one further.
        taps: Along rows and columns.
        row: Places that lie between rows.
    """
    of, have = Arithmetic(low, node.output[0]), low.shapes[source]
    rows, columns = (axis.places for axis in taps)
    out = replace(have, height=len(rows), width=len(columns))
    stride = (taps[0].stride, taps[1].stride)
    source, carried = _with_edges(low, node, source, carried, rows, columns)

    def read(index: int, at: tuple[int, int]) -> int:
        made = low.anonymous(out)
        return low.emit(Operation(Kind.CROP, index, made, stride=stride, pad=at))

    best = away = -1
    for tap, (i, j) in enumerate(
        product(range(rows.shape[1]), range(columns.shape[1]))
    ):
        at = int(rows[0, i] - rows[0, 0]), int(columns[0, j] - columns[0, 0])
        value = read(source, at)
        here = None if carried is None else read(carried, at)
        if not tap:
            best, away = value, of.line(value, 0.0) if here is None else here
            continue
        more = of.pair(Binary.ABOVE, value, best)
        if here is None:
            own = of.line(more, float(at[0] * row + at[1]))
        else:
            moved = of.line(here, 1.0, float(at[0] * row))
            own = of.pair(Binary.KEEP, moved, more)
        away = of.pair(Binary.PLUS, of.pair(Binary.DROP, away, more), own)
        best = of.pair(Binary.MOST, best, value)
    first = rows[:, :1] * row + (
        columns[:, 0] if carried is None else 0 * columns[:, 0]
    )
    plane = _plane(low, node, f"first places of {source}", first.astype(np.float32))
    return best, of.pair(Binary.PLUS, away, plane, Spread.PER_PIXEL)


def _with_edges(
    low: Lowering,
    node: onnx.NodeProto,
    source: int,
    carried: int | None,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> tuple[int, int | None]:
    """An image with what its windows read beside it, which is never the largest."""
    have, of = low.shapes[source], Arithmetic(low, node.output[0])
    top, left = -int(rows.min()), -int(columns.min())
    height = top + max(int(rows.max()) + 1, have.height)
    width = left + max(int(columns.max()) + 1, have.width)
    if (height, width) == (have.height, have.width):
        return source, carried
    seen = replace(have, height=height, width=width)

    def spread(index: int) -> int:
        whole = low.anonymous(seen)
        return low.emit(Operation(Kind.SPREAD, index, whole, pad=(top, left)))

    least = np.full((height, width), np.finfo(np.float32).min)
    least[top : top + have.height, left : left + have.width] = 0
    plane = _plane(low, node, f"edges of {source}", least)
    found = of.pair(Binary.PLUS, spread(source), plane, Spread.PER_PIXEL)
    return found, None if carried is None else spread(carried)


def _plane(
    low: Lowering, node: onnx.NodeProto, what: str, values: NDArray[np.float32]
) -> int:
    name = f"{node.output[0]} {what}"
    low.constants[name] = values
    return low.view(node, name, Shape(1, *values.shape))


def _global(low: Lowering, node: onnx.NodeProto) -> None:
    full = low.full(node.input[0])
    rows = full[0] * full[1]  # a reshape may have put images into the batch
    out = low.new(node.output[0], Shape(rows))
    if node.op_type == "GlobalAveragePool" and len(full) < VOLUME:
        plane = full[2:] if len(full[2:]) > 1 else (1, *full[2:])
        source = low.view(node, node.input[0], Shape(rows, *plane))
        low.emit(Operation(Kind.GLOBAL_AVERAGE, source, out))
        return
    mean = node.op_type == "GlobalAveragePool"
    source = low.view(node, node.input[0], Shape(rows, 1, prod(full[2:])))
    extra = int(Reduction.MEAN if mean else Reduction.LARGEST)
    low.emit(Operation(Kind.REDUCE_ROW, source, out, extra=extra))


RULES = {
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global,
    "GlobalMaxPool": _global,
}
