"""Translation of torch's recurrent cells into ONNX's recurrent operations of one step.

The exporter writes a cell out into its products and gates. Of one operation a step,
`export.passes.loops` makes one operation of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

__all__ = ["CELLS"]

op: Any = opset18  # its types are of arrays, lists are made constants

# ONNX's order of gates, as positions in torch's.
_GRU, _LSTM, _RNN = (1, 0, 2), (0, 3, 1, 2), (0,)


def _gates(given: Any, order: Sequence[int], hidden: int) -> Any:
    """A weight's or bias's rows in another order of the gates."""
    if len(order) == 1:
        return given
    parts = [op.Slice(given, [k * hidden], [(k + 1) * hidden], [0]) for k in order]
    return op.Concat(*parts, axis=0)


def _inputs(inputs: Any, parameters: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """The operation's first inputs: one step, weights and biases of one way."""
    hidden = parameters[1].shape[1]
    weights = [op.Unsqueeze(_gates(p, order, hidden), [0]) for p in parameters[:2]]
    biases = None
    if parameters[2] is not None:
        both = [_gates(bias, order, hidden) for bias in parameters[2:]]
        biases = op.Unsqueeze(op.Concat(*both, axis=0), [0])
    return [op.Unsqueeze(inputs, [0]), *weights, biases, None]


def _of_one_state(
    operation: Callable[..., Any], order: Sequence[int], **fixed: Any
) -> Callable[..., Any]:
    """The translation of a cell that keeps nothing but its output."""

    def translated(
        inputs: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        given = _inputs(inputs, (w_ih, w_hh, b_ih, b_hh), order)
        first, hidden = op.Unsqueeze(hx, [0]), w_hh.shape[1]
        _, last = operation(*given, first, hidden_size=hidden, **fixed)
        return op.Squeeze(last, [0])

    return translated


def _lstm(
    inputs: Any,
    hx: Sequence[Any],
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
) -> tuple[Any, Any]:
    given = _inputs(inputs, (w_ih, w_hh, b_ih, b_hh), _LSTM)
    states = [op.Unsqueeze(state, [0]) for state in hx]
    _, last, cell = op.LSTM(*given, *states, hidden_size=w_hh.shape[1])
    return op.Squeeze(last, [0]), op.Squeeze(cell, [0])


CELLS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.gru_cell.default: _of_one_state(op.GRU, _GRU, linear_before_reset=1),
    torch.ops.aten.lstm_cell.default: _lstm,
    torch.ops.aten.rnn_tanh_cell.default: _of_one_state(
        op.RNN, _RNN, activations=["Tanh"]
    ),
    torch.ops.aten.rnn_relu_cell.default: _of_one_state(
        op.RNN, _RNN, activations=["Relu"]
    ),
}
