"""RNN, LSTM and GRU, layer by layer and direction by direction, and their cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import PLAIN, Layout
from edge_sdk.program.capture.operands import operand
from edge_sdk.program.capture.rows.rearranged.copies import piece
from edge_sdk.program.capture.steps import reshaped
from edge_sdk.program.rules.recurrent import CELLS

__all__ = ["ROWS"]

_Weights = tuple[int, int, int, int]  # w_ih, w_hh, b_ih, b_hh by number; -1 for no bias


def _recurrent(builder: Builder, call: Node) -> None:
    """The product of all steps' inputs is a linear layer; the rest is one operation."""
    cell = str(getattr(call.node.target, "_opname", ""))
    states = _states(builder, call, Layout(1))
    x = _sequence(builder, call)
    p = float(call["dropout"]) if call["train"] else 0.0
    ways = 1 + int(call["bidirectional"])
    weights = _weights(builder, call, ways)
    last: list[int] = []
    cells: list[int] = []
    for layer in range(call["num_layers"]):
        if layer and p:
            x = _one(builder, call, "dropout", x, _shape(builder, x),
                     ints=(len(builder.operations),), reals=(p,))  # fmt: skip
        found = []
        for way in range(ways):
            at = layer * ways + way
            own = tuple(piece(builder, call, state, 0, at) for state in states)
            size = _parameter_shape(call, at)
            ints = CELLS[cell], way
            y, *more = _direction(builder, call, ints, x, weights[at], size, own)
            found.append(y)
            last.append(y)
            cells += more
        x = found[0] if ways == 1 else _joined(builder, call, found[0], found[1], 1)
    _hand_out(builder, call, x, last, cells, ways)


def _direction(
    builder: Builder, call: Node, ints: tuple[int, int], x: int, weights: _Weights,
    size: tuple[int, int], states: tuple[int, ...],
) -> tuple[int, ...]:  # fmt: skip
    """(sequence, last cell state if LSTM is given one); `ints` are cell and way."""
    w_ih, w_hh, b_ih, b_hh = weights
    (steps, _), (rows, hidden) = _shape(builder, x), size
    gates = _one(builder, call, "linear", x, (steps, rows), parameters=(w_ih, b_ih))
    name = "recurrent_from" if states else "recurrent"
    more = tuple(builder.new((hidden,)) for _ in states[1:])
    inputs = (gates, *states)
    y = builder.step(call, name, inputs, (steps, hidden), more=more,
                     parameters=(w_hh, b_hh), ints=ints)  # fmt: skip
    return y, *more


def _states(builder: Builder, call: Node, layout: Layout) -> tuple[int, ...]:
    """The state that it begins with, and LSTM's cell state; none where that is zero."""
    given = call["hx"]
    nodes = list(given) if isinstance(given, list | tuple) else [given]
    known = (n in builder.constants for n in nodes)
    zero = all(known) and not any(builder.constants.tensor(n).any() for n in nodes)
    last_cell = any(n.args[1:] == (2,) and n.users for n in call.node.users)
    if zero and not last_cell:
        return ()
    found = []
    for node in nodes:
        if node not in builder.constants and builder.value(call, node)[1] != layout:
            raise builder.refused(call, "the batch is not where its first state has it")
        found.append(operand(builder, call, node, layout))
    return tuple(found)


def _cell(builder: Builder, call: Node) -> None:
    """One step of a sequence, as a sequence of one."""
    cell = str(getattr(call.node.target, "_opname", "")).removesuffix("_cell")
    x = builder.tensor(call, "input")
    x = reshaped(builder, call, x, (1, *_shape(builder, x)))
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    w_ih, w_hh, b_ih, b_hh = (builder.parameter(call, n) for n in names)
    rows, hidden = call["w_hh"].meta["val"].shape
    states = _states(builder, call, PLAIN)
    if cell == "lstm" and not states:  # its cell state goes on to the next step
        states = tuple(operand(builder, call, n, PLAIN) for n in call["hx"])
    y, *more = _direction(builder, call, (CELLS[cell], 0), x,
                          (w_ih, w_hh, b_ih, b_hh), (rows, hidden), states)  # fmt: skip
    y = reshaped(builder, call, y, (hidden,))
    if more:
        builder.many[call.node] = (y, *more)
        builder.layouts[call.node] = PLAIN
    else:
        builder.put(call, y)


def _sequence(builder: Builder, call: Node) -> int:
    """The input (steps, features) per sample, wherever the batch axis is."""
    tensor, layout = builder.value(call, "input")
    if layout != (PLAIN if call["batch_first"] else Layout(1)):
        raise builder.refused(call, "the batch is not where it says")
    return tensor


def _weights(builder: Builder, call: Node, ways: int) -> list[_Weights]:
    """The weights of each layer and direction."""
    given, biases = call["params"], call["has_biases"]
    each = 4 if biases else 2
    if len(given) != each * ways * call["num_layers"]:
        raise builder.refused(call, "a projection of the state")
    numbers = []
    for node in given:
        if node not in builder.parameters:
            raise builder.refused(call, "a weight that is computed, not a parameter")
        numbers.append(builder.parameters[node])
    return [
        (
            numbers[at],
            numbers[at + 1],
            *(numbers[at + 2 : at + 4] if biases else (-1, -1)),
        )
        for at in range(0, len(numbers), each)
    ]


def _parameter_shape(call: Node, at: int) -> tuple[int, int]:
    """(rows, hidden) of the recurrent weight of one layer and direction."""
    each = 4 if call["has_biases"] else 2
    rows, hidden = call["params"][at * each + 1].meta["val"].shape
    return int(rows), int(hidden)


def _shape(builder: Builder, tensor: int) -> tuple[int, ...]:
    return builder.tensors[tensor].shape


def _one(
    builder: Builder, call: Node, name: str, source: int, shape: tuple[int, ...],
    **options: Any,
) -> int:  # fmt: skip
    return builder.step(call, name, (source,), shape, **options)


def _joined(builder: Builder, call: Node, one: int, other: int, axis: int) -> int:
    before, after = _shape(builder, one), _shape(builder, other)
    shape = [*before]
    shape[axis] += after[axis]
    return builder.step(call, "join", (one, other), tuple(shape), ints=(axis,))


def _hand_out(
    builder: Builder, call: Node, y: int, last: list[int], cells: list[int], ways: int
) -> None:
    """Places for the call's items: the sequence, and the last states of each layer."""
    for item in call.node.users:
        at = item.args[1] if len(item.args) > 1 else None
        if at == 0:
            builder.place[item] = y
            builder.layouts[item] = PLAIN if call["batch_first"] else Layout(1)
        elif at == 1 and item.users:
            builder.place[item] = _final_states(builder, call, last, ways)
            builder.layouts[item] = Layout(1)
        elif item.users:
            builder.place[item] = _stacked(builder, call, cells)
            builder.layouts[item] = Layout(1)


def _final_states(builder: Builder, call: Node, last: list[int], ways: int) -> int:
    """(layers * directions, hidden): where each direction ends."""
    states = []
    for at, tensor in enumerate(last):
        steps, hidden = _shape(builder, tensor)
        offset = 0 if at % ways else (steps - 1) * hidden
        ints = (*[1] * 4, 1, hidden, *[0] * 4, hidden, 1, offset, 2)
        states.append(_one(builder, call, "copy", tensor, (1, hidden), ints=ints))
    return _stacked(builder, call, states)


def _stacked(builder: Builder, call: Node, states: list[int]) -> int:
    found = -1
    for state in states:
        own = reshaped(builder, call, state, (1, _shape(builder, state)[-1]))
        found = own if found < 0 else _joined(builder, call, found, own, 0)
    return found


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    **dict.fromkeys(CELLS, _recurrent),
    **{f"{cell}_cell": _cell for cell in CELLS},
}
