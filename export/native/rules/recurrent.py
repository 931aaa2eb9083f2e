"""Lowering of GRU, LSTM and RNN: gates of the input at once, then step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Cell, Kind, Operation, Shape
from export.passes.graph import attribute

__all__ = ["RULES"]

_USUAL = {
    "GRU": [b"Sigmoid", b"Tanh"],
    "LSTM": [b"Sigmoid", b"Tanh", b"Tanh"],
}


def _recurrent(low: Lowering, node: onnx.NodeProto) -> None:
    steps, batch, _ = low.full(node.input[0])
    cell = _cell(low, node)
    weights, states = low.constant(node, 1), low.constant(node, 2)
    assert weights is not None  # noqa: S101 - ONNX asks for both
    assert states is not None  # noqa: S101
    biases = low.constant(node, 3)
    if batch != 1:
        raise low.refused(node, "runs over another axis than the steps of one example")
    ways = len(weights)
    reverse = attribute(node, "direction", b"forward") == b"reverse"
    made = []
    for way in range(ways):
        back = reverse or way == 1
        bias = np.zeros(2 * weights.shape[1]) if biases is None else biases[way]
        parts = weights[way], states[way], bias
        first = _first_state(low, node, way)
        made.append(_one_way(low, node, parts, cell, first, back=back))
    _give(low, node, made, steps, reverse=reverse)


def _cell(low: Lowering, node: onnx.NodeProto) -> Cell:
    """The node's cell; refuses those that torch has not."""
    ways = 2 if attribute(node, "direction", b"forward") == b"bidirectional" else 1
    plain = not attribute(node, "layout", 0) and attribute(node, "clip", None) is None
    # Lengths, or a look at the cell's state: nothing of torch's.
    others = any((*node.input[4:5], *node.input[7:]))
    functions = list(attribute(node, "activations", None) or [])
    if node.op_type == "RNN":
        kind = functions[0] if functions else b"Tanh"
        cell = {b"Tanh": Cell.RNN_TANH, b"Relu": Cell.RNN_RELU}.get(kind)
        usual = functions in ([], [kind] * ways)
    else:
        cell = Cell.GRU if node.op_type == "GRU" else Cell.LSTM
        usual = functions in ([], _USUAL[node.op_type] * ways)
    if cell is Cell.GRU and not attribute(node, "linear_before_reset", 0):
        raise low.refused(node, "resets before the recurrent matrix, unlike torch's")
    if not plain or others or not usual or cell is None:
        raise low.refused(node, "is not torch's")
    return cell


def _first_state(low: Lowering, node: onnx.NodeProto, way: int) -> int:
    """The buffer of one way's first state, and of an LSTM's first cell; -1: zeros."""
    given = [*node.input[5:7], "", ""][: 2 if node.op_type == "LSTM" else 1]
    if not any(name and not _zeros(low, name) for name in given):
        return -1
    parts = []
    for name in given:
        if not name:
            raise low.refused(node, "has one of two first states: give both")
        ways, _, hidden = low.full(name)
        source = low.view(node, name, Shape(ways, 1, hidden))
        part = low.anonymous(Shape(1, 1, hidden))
        parts.append(low.emit(Operation(Kind.TAKE, source, part, extra=way)))
    if len(parts) == 1:
        return parts[0]
    both = low.anonymous(Shape(2, 1, low.shapes[parts[0]].width))
    for at, part in enumerate(parts):
        low.emit(Operation(Kind.PLACE, part, both, extra=at))
    return both


def _zeros(low: Lowering, name: str) -> bool:
    return name in low.constants and not low.constants[name].any()


def _one_way(
    low: Lowering,
    node: onnx.NodeProto,
    parts: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    cell: Cell,
    first: int,
    *,
    back: bool,
) -> int:
    weight, state, bias = parts
    steps, _, width = low.full(node.input[0])
    gates, hidden = state.shape
    made_by = next(filter(None, node.output))
    own = low.weight(node.input[1], weight, bias[:gates], made_by)
    source = low.view(node, node.input[0], Shape(steps, 1, width))
    if steps == 1:
        flat = low.reshaped(node, source, Shape(width))
        row = low.anonymous(Shape(gates))
        made = low.emit(Operation(Kind.LINEAR, flat, row, weight=own))
        given = low.reshaped(node, made, Shape(1, 1, gates))
    else:
        turned = low.transposed(source, (2, 1, 0))
        many = low.anonymous(Shape(gates, 1, steps))
        made = low.emit(Operation(Kind.CONV, turned, many, weight=own))
        given = low.transposed(made, (2, 1, 0))
    recurrent = low.weight(node.input[2], state, bias[gates:], made_by)
    kept = bool("".join(node.output[2:]))  # the last cell is a result, too
    out = low.anonymous(Shape(steps + kept, 1, hidden))
    extra = int(cell) + 16 * back + 32 * kept
    return low.emit(
        Operation(Kind.RECURRENT, given, out, first, weight=recurrent, extra=extra)
    )


def _give(
    low: Lowering, node: onnx.NodeProto, made: list[int], steps: int, *, reverse: bool
) -> None:
    """States (steps, ways, 1, hidden), last ones and cells (ways, 1, hidden)."""
    hidden = low.shapes[made[0]].width
    if kept := "".join(node.output[2:]):
        cells = low.anonymous(Shape(len(made), 1, hidden))
        for way, index in enumerate(made):
            one = low.anonymous(Shape(1, 1, hidden))
            low.emit(Operation(Kind.TAKE, index, one, extra=steps))
            low.emit(Operation(Kind.PLACE, one, cells, extra=way))
            states = low.anonymous(Shape(steps, 1, hidden))
            made[way] = low.emit(Operation(Kind.TAKE, index, states))
        low.alias(kept, cells)
    rows = [low.reshaped(node, index, Shape(1, steps, hidden)) for index in made]
    if len(made) == 1:
        low.alias(node.output[0], made[0])
    else:
        whole = low.anonymous(Shape(len(made), steps, hidden))
        for way, index in enumerate(rows):
            low.emit(Operation(Kind.PLACE, index, whole, extra=way))
        low.alias(node.output[0], low.transposed(whole, (1, 0, 2)))
    if len(node.output) < 2 or not node.output[1]:
        return
    last = low.anonymous(Shape(len(made), 1, hidden))
    for way, index in enumerate(rows):
        at = 0 if reverse or way == 1 else steps - 1
        one = low.anonymous(Shape(1, 1, hidden))
        low.emit(Operation(Kind.CROP, index, one, pad=(at, 0)))
        low.emit(Operation(Kind.PLACE, one, last, extra=way))
    low.alias(node.output[1], last)


RULES = dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent)
