"""Translation of torch's plain recurrent layers (`nn.RNN`) into ONNX's RNN operation.

The exporter has one for GRU and LSTM alone and unrolls an RNN into its steps: each has
nodes and, where activations are rounded, scales of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

__all__ = ["TRANSLATIONS"]

op: Any = opset18  # its types are of arrays, lists are made constants


def _translation(activation: str) -> Callable[..., tuple[Any, Any]]:
    """The translation of ``aten::rnn_tanh`` and its like; parameters are torch's.

    Args:
        activation: ONNX's name of the function.
    """

    def translated(
        inputs: Any,
        states: Any,
        params: Sequence[Any],
        has_biases: bool,  # noqa: FBT001
        num_layers: int,
        dropout: float,
        train: bool,  # noqa: FBT001
        bidirectional: bool,  # noqa: FBT001
        batch_first: bool,  # noqa: FBT001
    ) -> tuple[Any, Any]:
        ways = 1 + bidirectional
        each = 4 if has_biases else 2
        steps = op.Transpose(inputs, perm=[1, 0, 2]) if batch_first else inputs
        last = []
        for first in range(0, num_layers * ways, ways):
            own = [
                params[n * each : (n + 1) * each] for n in range(first, first + ways)
            ]
            weights, recurrent = (
                _joined([op.Unsqueeze(way[i], [0]) for way in own]) for i in (0, 1)
            )
            biases = None
            if has_biases:
                both = [op.Concat(way[2], way[3], axis=0) for way in own]
                biases = _joined([op.Unsqueeze(bias, [0]) for bias in both])
            outputs, state = op.RNN(
                steps,
                weights,
                recurrent,
                biases,
                None,  # all sequences are as long as the input
                op.Slice(states, [first], [first + ways], [0]),
                activations=[activation] * ways,
                direction="bidirectional" if bidirectional else "forward",
                hidden_size=states.shape[2],
            )
            # (steps, ways, batch, hidden) to (steps, batch, ways * hidden)
            steps = op.Reshape(op.Transpose(outputs, perm=[0, 2, 1, 3]), [0, 0, -1])
            last.append(state)
        made = op.Transpose(steps, perm=[1, 0, 2]) if batch_first else steps
        return made, _joined(last)

    return translated


def _joined(parts: Sequence[Any]) -> Any:
    """Parts one after the other on the first axis."""
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.rnn_tanh.input: _translation("Tanh"),
    torch.ops.aten.rnn_relu.input: _translation("Relu"),
}
