"""Lowering of pools: of windows, and of all pixels."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import onnx

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Reduction, Shape
from export.native.rules import volumes
from export.native.rules.window import VOLUME, window_in
from export.passes.graph import attributes

__all__ = ["RULES"]


def _pool(low: Lowering, node: onnx.NodeProto) -> None:
    a = attributes(node)
    average = node.op_type == "AveragePool"
    if len(node.output) > 1:
        raise low.refused(node, "returns indices")
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
