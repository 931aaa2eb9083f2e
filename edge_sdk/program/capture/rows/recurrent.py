"""RNN, LSTM and GRU, layer by layer and direction by direction; embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import PLAIN, Layout
from edge_sdk.program.rules.recurrent import CELLS

__all__ = ["ROWS"]


def _recurrent(builder: Builder, call: Node) -> None:
    """The product of all steps' inputs is a linear layer; the rest is one operation."""
    cell = str(getattr(call.node.target, "_opname", ""))
    _check_states(builder, call)
    x = _sequence(builder, call)
    p = float(call["dropout"]) if call["train"] else 0.0
    ways = 1 + int(call["bidirectional"])
    weights = _weights(builder, call, ways)
    last: list[int] = []
    for layer in range(call["num_layers"]):
        if layer and p:
            x = _one(builder, call, "dropout", x, _shape(builder, x),
                     ints=(len(builder.operations),), reals=(p,))  # fmt: skip
        found = []
        for way in range(ways):
            w_ih, w_hh, b_ih, b_hh = weights[layer * ways + way]
            steps, _ = _shape(builder, x)
            rows, hidden = _parameter_shape(call, layer * ways + way)
            gates = _one(builder, call, "linear", x, (steps, rows),
                         parameters=(w_ih, b_ih))  # fmt: skip
            y = _one(builder, call, "recurrent", gates, (steps, hidden),
                     parameters=(w_hh, b_hh), ints=(CELLS[cell], way))  # fmt: skip
            found.append(y)
            last.append(y)
        x = found[0] if ways == 1 else _joined(builder, call, found[0], found[1], 1)
    _hand_out(builder, call, x, last, ways)


def _check_states(builder: Builder, call: Node) -> None:
    states = call["hx"]
    for state in states if isinstance(states, list | tuple) else [states]:
        known = state in builder.constants and not builder.constants.tensor(state).any()
        if not known:
            raise builder.refused(call, "an initial state that is not zero")


def _sequence(builder: Builder, call: Node) -> int:
    """The input (steps, features) per sample, wherever the batch axis is."""
    tensor, layout = builder.value(call, "input")
    if layout != (PLAIN if call["batch_first"] else Layout(1)):
        raise builder.refused(call, "the batch is not where it says")
    return tensor


def _weights(
    builder: Builder, call: Node, ways: int
) -> list[tuple[int, int, int, int]]:
    """(w_ih, w_hh, b_ih, b_hh) of each layer and direction; -1 for no bias."""
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


def _hand_out(builder: Builder, call: Node, y: int, last: list[int], ways: int) -> None:
    """Places for the call's items: the sequence, and the last state of each layer."""
    for item in call.node.users:
        at = item.args[1] if len(item.args) > 1 else None
        if at == 0:
            builder.place[item] = y
            builder.layouts[item] = PLAIN if call["batch_first"] else Layout(1)
        elif at == 1 and item.users:
            builder.place[item] = _final_states(builder, call, last, ways)
            builder.layouts[item] = Layout(1)
        elif item.users:
            raise builder.refused(
                call, "something is computed from its last cell state"
            )


def _final_states(builder: Builder, call: Node, last: list[int], ways: int) -> int:
    """(layers * directions, hidden): where each direction ends."""
    states = []
    for at, tensor in enumerate(last):
        steps, hidden = _shape(builder, tensor)
        offset = 0 if at % ways else (steps - 1) * hidden
        ints = (*[1] * 4, 1, hidden, *[0] * 4, hidden, 1, offset, 2)
        states.append(_one(builder, call, "copy", tensor, (1, hidden), ints=ints))
    found = states[0]
    for state in states[1:]:
        found = _joined(builder, call, found, state, 0)
    return found


def _embedding(builder: Builder, call: Node) -> None:
    if call.get("sparse", False) or call.get("scale_grad_by_freq", False):
        raise builder.refused(call, "sparse gradients, or scaled by frequency")
    source, layout = builder.value(call, "indices")
    if call["indices"].meta["val"].dtype.is_floating_point:
        raise builder.refused(call, "tokens that are no whole numbers")
    tokens = call["weight"].meta["val"].shape[0]
    padding = call.get("padding_idx", -1)
    builder.emit(
        call,
        "embedding",
        (source,),
        layout=layout,
        parameters=(builder.parameter(call, "weight"),),
        ints=(padding if 0 <= padding < tokens else -1,),
    )


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    **dict.fromkeys(CELLS, _recurrent),
    "embedding": _embedding,
}
