"""Recurrent layers and embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["CELLS", "RULES"]

# Number of each cell in the kernels; gates per unit, and values per unit and step that
# the backward pass needs.
CELLS: Final = {"rnn_tanh": 0, "rnn_relu": 1, "lstm": 2, "gru": 3}
_GATES: Final = (1, 1, 4, 3)
_SAVED: Final = (0, 0, 5, 4)


def _weight(call: Operands) -> tuple[Shape, int]:
    shape = call.parameters[0]
    call.require(shape is not None and len(shape) == 2, "needs a weight of two axes")
    assert shape is not None  # noqa: S101 - for mypy
    return shape, 1


def _outputs(call: Operands) -> tuple[Shape, ...]:
    """Of one direction: gates (steps, G * hidden) give (steps, hidden)."""
    (rows, hidden), _ = _weight(call)
    x, bias, cell = call.inputs[0], call.parameters[1], call.ints["cell"]
    call.require(0 <= cell < len(_GATES), "has no such cell")
    call.require(call.ints["reverse"] in {0, 1}, "has no such direction")
    call.require(rows == _GATES[cell] * hidden and len(x) == 2 and x[1] == rows,
                 f"gates {x} do not fit the weight {(rows, hidden)}")  # fmt: skip
    call.require(bias in {None, (rows,)}, f"the bias is {bias}, not ({rows},)")
    return ((x[0], hidden),)


def _outputs_from(call: Operands) -> tuple[Shape, ...]:
    """With a given state (hidden,), LSTM's cell state too, which it gives back."""
    (sequence,) = _outputs(call)
    lstm = call.ints["cell"] == CELLS["lstm"]
    own = (sequence[1:],) * (2 if lstm else 1)
    call.require(call.inputs[1:] == own, f"its states are {call.inputs[1:]}, not {own}")
    return (sequence, *own[1:])


def _saved(call: Operands) -> tuple[int, ...]:
    steps, hidden = call.outputs[0]
    saved = _SAVED[call.ints["cell"]]
    return (saved * steps * hidden,) if saved else ()


def _looked_up(call: Operands) -> tuple[Shape, ...]:
    (tokens, columns), _ = _weight(call)
    call.require(-1 <= call.ints["padding"] < tokens, "has no such padding token")
    return ((*call.inputs[0], columns),)


_RECURRENT: Final = Rule(
    inputs=(1, 1),
    parameters=("weight", "bias?"),
    ints=("cell", "reverse"),
    shapes=_outputs,
    arguments=lambda call: (
        *(call.ints["cell"], call.ints["reverse"]),
        *call.outputs[0],
    ),
    stash=_saved,
    reads_out=lambda _: (0,),
    reads_stash=(0,),
    weight=_weight,
)
RULES: Final[dict[str, Rule]] = {
    "recurrent": _RECURRENT,
    "recurrent_from": replace(
        _RECURRENT, inputs=(2, 3), shapes=_outputs_from, reads_in=(1, 2)
    ),
    "embedding": Rule(
        inputs=(1, 1),
        parameters=("weight",),
        ints=("padding",),
        shapes=_looked_up,
        arguments=lambda call: (
            math.prod(call.inputs[0]),
            *_weight(call)[0],
            call.ints["padding"],
        ),
        reads_in=(0,),
        weight=_weight,
    ),
}
