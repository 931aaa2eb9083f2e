"""Lowering of pools: of windows, and of all pixels."""

from __future__ import annotations

from dataclasses import replace
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
    """The largest of each window and its place in the whole value, tap by tap.

    A later tap counts where it is larger, so that of equal values the first has it.
    """
    full = low.full(node.input[0])
    if len(full) == VOLUME or attributes(node).get("storage_order", 0):
        raise low.refused(node, "gives places of volumes, or column by column")
    if prod(full) > _MOST_PLACES:
        raise low.refused(
            node, f"counts {prod(full):,} places: up to {_MOST_PLACES:,} are supported"
        )
    of, window = Arithmetic(low, node.output[0]), window_in(low, node)
    source = low.view(node, node.input[0])
    have, out = low.shapes[source], low.shape(node.output[0])
    rows, columns = (
        np.arange(count)[:, None] * step - pad + np.arange(taps) * apart
        for count, step, pad, taps, apart in zip(
            (out.height, out.width),
            window["stride"],
            window["pad"],
            window["kernel"],
            window["dilation"],
            strict=True,
        )
    )  # places along each axis, (out, taps)
    source = _with_edges(low, node, source, rows, columns)
    first = rows[:, :1] * have.width + columns[:, 0]  # may lie before the image
    best = away = -1
    for tap, (i, j) in enumerate(
        product(range(rows.shape[1]), range(columns.shape[1]))
    ):
        at = int(rows[0, i] - rows[0, 0]), int(columns[0, j] - columns[0, 0])
        value = low.emit(
            Operation(
                *(Kind.CROP, source, low.anonymous(out)),
                stride=window["stride"],
                pad=at,
            )
        )
        if not tap:
            best, away = value, of.line(value, 0.0)
            continue
        more = of.pair(Binary.ABOVE, value, best)
        own = of.line(more, float(at[0] * have.width + at[1]))
        away = of.pair(Binary.PLUS, of.pair(Binary.DROP, away, more), own)
        best = of.pair(Binary.MOST, best, value)
    low.alias(node.output[0], best)
    shifts = np.arange(have.channels, dtype=np.float32) * have.pixels
    ones = np.ones((have.channels, 1))
    weight = low.weight(node.output[0], ones, shifts)
    moved = Operation(Kind.AFFINE, away, low.anonymous(out), weight=weight)
    places = low.emit(moved)
    plane = _plane(low, node, "first places", first.astype(np.float32))
    low.alias(node.output[1], of.pair(Binary.PLUS, places, plane, Spread.PER_PIXEL))


def _with_edges(
    low: Lowering,
    node: onnx.NodeProto,
    source: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> int:
    """An image with what its windows read beside it, which is never the largest."""
    have, of = low.shapes[source], Arithmetic(low, node.output[0])
    top, left = -int(rows.min()), -int(columns.min())
    height = top + max(int(rows.max()) + 1, have.height)
    width = left + max(int(columns.max()) + 1, have.width)
    if (height, width) == (have.height, have.width):
        return source
    whole = low.anonymous(replace(have, height=height, width=width))
    low.emit(Operation(Kind.SPREAD, source, whole, pad=(top, left)))
    least = np.full((height, width), np.finfo(np.float32).min)
    least[top : top + have.height, left : left + have.width] = 0
    plane = _plane(low, node, "edges", least)
    return of.pair(Binary.PLUS, whole, plane, Spread.PER_PIXEL)


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
