"""Joins the steps of a recurrent cell that a loop calls into one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.passes import PassResult
from export.passes.graph import (
    RECURRENT,
    attribute,
    attributes,
    drop_nodes,
    read_array,
    replace_array,
)
from export.passes.loops.values import GraphValues, StepsRead, live, sorted_nodes

__all__ = ["JoinSteps"]


@dataclass(frozen=True)
class JoinSteps:
    """Makes one GRU, LSTM or RNN of those that hand their state on, step by step.

    Weights and nodes then are there once, whatever the number of steps. Runs after
    `FoldConstants`, which makes each step's weights constants.

    Attributes:
        unjoined: Filled while running: why a loop stays as it is, by its first value.
    """

    unjoined: dict[str, str] = field(default_factory=dict)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Joins in place; loops in the order in which they feed each other."""
        count = 0
        done: set[str] = set()
        while True:
            values = GraphValues(model)
            loops = [c for c in _loops(model, values) if c[0].output[1] not in done]
            if not loops:
                break
            loop = loops[0]
            done.add(loop[0].output[1])
            reason = _hindrance(model, values, loop)
            if reason:
                self.unjoined[loop[0].output[1]] = reason
            else:
                _join(model, values, loop)
                count += len(loop)
        return PassResult(model, count > 0, f"{count} steps of recurrent cells joined")


def _loops(model: onnx.ModelProto, values: GraphValues) -> list[list[onnx.NodeProto]]:
    """Cells of one step, each loop in its order; one step alone is a loop, too."""
    read = {name for node in model.graph.node for name in node.input if name}
    read |= {value.name for value in model.graph.output}
    cells = [
        node
        for node in model.graph.node
        if node.op_type in RECURRENT
        and node.output[0] not in read  # a layer's: states of all steps
        and _one(node, values)
    ]
    loops: dict[str, list[onnx.NodeProto]] = {}  # by its last step's state
    for node in cells:
        before = loops.pop(values.origin(node.input[5]), None)
        if before is not None and not _goes_on(model, values, before[-1], node):
            loops[before[-1].output[1]] = before
            before = None
        loops[node.output[1]] = [*(before or []), node]
    return list(loops.values())


def _one(node: onnx.NodeProto, values: GraphValues) -> bool:
    """Tell a step that is given a state from a whole sequence."""
    given = len(node.input) > 5 and node.input[5] and len(node.output) > 1
    plain = attribute(node, "direction", b"forward") == b"forward"
    return bool(given) and plain and values.shape(node.input[0])[:1] == [1]


def _goes_on(
    model: onnx.ModelProto,
    values: GraphValues,
    one: onnx.NodeProto,
    other: onnx.NodeProto,
) -> bool:
    """Tell the same cell, from the state that the one left, from another."""
    if one.op_type != other.op_type or attributes(one) != attributes(other):
        return False
    if one.op_type == "LSTM" and values.origin(other.input[6]) not in one.output[2:]:
        return False
    for a, b in zip(one.input[1:4], other.input[1:4], strict=True):
        if a == b:
            continue
        first, second = read_array(model, a), read_array(model, b)
        if first is None or second is None or not np.array_equal(first, second):
            return False
    return True


def _hindrance(
    model: onnx.ModelProto, values: GraphValues, loop: Sequence[onnx.NodeProto]
) -> str:
    """The reason why a loop cannot be one operation; empty if it can."""
    first = loop[0]
    if not all(values.zero(name) for name in first.input[5:]):
        return "its first state is not zero"
    if any(read_array(model, name) is None for name in first.input[1:4] if name):
        return "its weights are computed from the inputs"
    made = {name for node in loop for name in node.output if name}
    if any(made & values.upstream(node.input[0]) for node in loop):
        return "what it reads depends on what it gave"
    inside = {id(node) for node in loop}
    if first.op_type == "LSTM":
        cells = {name for node in loop for name in node.output[2:] if name}
        for node in model.graph.node:
            if id(node) in inside or node.op_type in {"Squeeze", "Unsqueeze"}:
                continue
            if any(values.origin(name) in cells for name in node.input):
                return "the state of its cell is read"
        if any(values.origin(v.name) in cells for v in model.graph.output):
            return "the state of its cell is an output"
    return ""


def _join(
    model: onnx.ModelProto, values: GraphValues, loop: Sequence[onnx.NodeProto]
) -> None:
    """One operation in the place of the loop's, and what its readers read."""
    last, count = loop[-1], len(loop)
    state = last.output[1]
    new = _New(model, state)
    found = values.selected([node.input[0] for node in loop])
    if found is not None:
        inputs = _sequence(new, found, count)
    elif count == 1:
        inputs = last.input[0]
    else:
        inputs = new.step("Concat", [n.input[0] for n in loop], "inputs", axis=0)
    back = found is not None and found.back
    fields = attributes(last) | ({"direction": "reverse"} if back else {})
    steps, final = f"{state}.all", f"{state}.last"
    given = [inputs, *loop[0].input[1:4]]
    new.nodes.append(helper.make_node(last.op_type, given, [steps, final], **fields))
    # (steps, 1, batch, hidden) to (steps, batch, hidden)
    rows = new.step("Squeeze", [steps, new.constant("way", 1)], "rows")
    place = {
        node.output[1]: count - 1 - t if back else t for t, node in enumerate(loop)
    }
    for node in model.graph.node:
        axis = values.stacks(node, place)
        if axis is not None:  # all states in order: what the operation gives
            node.op_type = "Transpose" if axis else "Identity"
            del node.input[:], node.attribute[:]
            node.input.append(rows)
            if axis:
                node.attribute.append(helper.make_attribute("perm", [1, 0, 2]))
    inside = {id(node) for node in loop}
    rest = [node for node in model.graph.node if id(node) not in inside]
    outputs = [value.name for value in model.graph.output]
    read = {name for node in live(rest, outputs) for name in node.input}
    if read.isdisjoint(place.keys() - {state}):
        new.nodes.append(helper.make_node("Identity", [final], [state]))
        place = {}
    for value, at in place.items():
        which = [rows, new.constant(f"step {at}", at)]
        new.nodes.append(helper.make_node("Gather", which, [value], axis=0))
    ordered = sorted_nodes(live([*rest, *new.nodes], outputs))
    kept = onnx.GraphProto()
    kept.node.extend(ordered)
    del model.graph.node[:]
    model.graph.node.extend(kept.node)
    drop_nodes(model, [])  # leaves out the weights of other steps


@dataclass
class _New:
    """Nodes that are made for one loop, with names after its last state."""

    model: onnx.ModelProto
    state: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def step(self, kind: str, inputs: Sequence[str], name: str, **fields: Any) -> str:
        out = f"{self.state}.{name}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **fields))
        return out

    def constant(self, name: str, number: int) -> str:
        full = f"{self.state}.{name}"
        replace_array(self.model, full, np.array([number], np.int64))
        return full


def _sequence(new: _New, found: StepsRead, count: int) -> str:
    """The steps that a loop takes of a value, as (steps, batch, values)."""
    source = found.source
    if count < found.size:
        bounds = [
            new.constant("begin", found.first),
            new.constant("end", found.first + count),
            new.constant("axis", found.axis),
        ]
        source = new.step("Slice", [source, *bounds], "part")
    if found.axis:
        order = [found.axis, *(axis for axis in range(3) if axis != found.axis)]
        source = new.step("Transpose", [source], "inputs", perm=order)
    return source
