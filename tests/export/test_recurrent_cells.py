"""Cells that a loop calls: one operation of all steps, or written out and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import export
from edge_sdk.kernels.build import find_compiler, this_machine
from export.modules import from_module
from export.onnx_graph import dense_graph
from export.passes.graph import RECURRENT

HAVE_COMPILER = find_compiler(this_machine()) is not None
FORMATS = ("onnx-sparse", *["native"] * HAVE_COMPILER)
WIDTH, HIDDEN = 6, 8


class Loop(nn.Module):
    """Cells, and a function that calls them over the steps of the input."""

    def __init__(self, run: Callable[..., Tensor], **cells: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        for name, cell in cells.items():
            self.add_module(name, cell)
            prune.random_unstructured(cell, "weight_hh", 0.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def zeros(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], HIDDEN)


def last(self: Loop, x: Tensor) -> Tensor:
    state = zeros(x)
    for t in range(x.shape[1]):
        state = self.cell(x[:, t], state)
    return state


def last_of_two(self: Loop, x: Tensor) -> Tensor:
    state = None
    for t in range(x.shape[1]):
        state = self.cell(x[:, t], state)
    return state[0]


def both_ways(self: Loop, x: Tensor) -> Tensor:
    """Two layers, of which the second reads the first's states from the last one on."""
    below, above, made = zeros(x), None, []
    states = []
    for step in x[:, 1:].unbind(1):
        below = self.below(step, below)
        states.append(below)
    for state in reversed(states):
        above = self.above(state, above)
        made.insert(0, above[0])
    return torch.stack(made, 1)


def every_second(self: Loop, x: Tensor) -> Tensor:
    state, made = zeros(x), []
    for t in range(0, x.shape[1], 2):
        state = self.cell(x[:, t].relu(), state)
        made.append(state.sum(1, keepdim=True))
    return torch.cat(made, 1)


def feeds_itself(self: Loop, x: Tensor) -> Tensor:
    state = zeros(x)
    for t in range(x.shape[1]):
        state = self.cell(x[:, t] + state[:, :WIDTH], state)
    return state


def gives_its_cell(self: Loop, x: Tensor) -> Tensor:
    state = None
    for t in range(x.shape[1]):
        state = self.cell(x[:, t], state)
    return torch.cat(state, 1)


def starts_elsewhere(self: Loop, x: Tensor) -> Tensor:
    state = torch.cat([x[:, 0], x[:, 0, : HIDDEN - WIDTH]], 1)
    for t in range(1, x.shape[1]):
        state = self.cell(x[:, t], state)
    return state


def inputs(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, steps, WIDTH)).astype(np.float32)


def kinds(file: Path) -> list[str]:
    found = [node.op_type for node in onnx.load(file).graph.node]
    return [kind for kind in found if kind in RECURRENT]


@pytest.mark.parametrize(
    ("run", "cells", "wanted"),
    [
        (last, {"cell": nn.RNNCell(WIDTH, HIDDEN, nonlinearity="relu")}, ["RNN"]),
        (
            both_ways,
            {"below": nn.GRUCell(WIDTH, HIDDEN), "above": nn.LSTMCell(HIDDEN, HIDDEN)},
            ["GRU", "LSTM"],
        ),
        (every_second, {"cell": nn.GRUCell(WIDTH, HIDDEN, bias=False)}, ["GRU"]),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_loop_over_a_cell_is_one_operation(
    run: Callable[..., Tensor], cells: dict[str, nn.Module], wanted: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    model, given = Loop(run, **cells), inputs(5)
    made = export.build(model, tmp_path, formats=FORMATS, calibration=given)
    assert kinds(made.files["onnx-sparse"]) == wanted
    with torch.no_grad():
        right = model(torch.from_numpy(given)).numpy()
    for name in FORMATS:
        outputs = export.load(made.files[name])(given)
        np.testing.assert_allclose(outputs.reshape(right.shape), right, atol=1e-5)


def test_more_steps_make_no_larger_file(tmp_path: Path) -> None:
    sizes = []
    for steps in (3, 20):
        model = Loop(last_of_two, cell=nn.LSTMCell(WIDTH, HIDDEN))
        given = inputs(steps)
        made = export.build(
            model, tmp_path / str(steps), formats=FORMATS, calibration=given
        )
        sizes.append([made.files[name].stat().st_size for name in FORMATS])
    few, many = np.array(sizes)
    assert (abs(many - few) < 0.03 * few).all()


@pytest.mark.parametrize(
    ("run", "kind", "reason"),
    [
        (feeds_itself, nn.GRUCell, "what it reads depends on what it gave"),
        (gives_its_cell, nn.LSTMCell, "the state of its cell is read"),
        (starts_elsewhere, nn.RNNCell, "its first state is not zero"),
    ],
)
def test_what_cannot_be_one_operation_stays_written_out_and_says_why(
    run: Callable[..., Tensor], kind: type[nn.Module], reason: str, tmp_path: Path
) -> None:
    model, given = Loop(run, cell=kind(WIDTH, HIDDEN)), inputs(4)
    made = export.build(model, tmp_path, formats=FORMATS, calibration=given)
    assert kinds(made.files["onnx-sparse"]) == []
    assert reason in " ".join(made["onnx-sparse"].notes)


def test_a_free_batch_has_one_operation_too() -> None:
    source = from_module(Loop(last, cell=nn.GRUCell(WIDTH, HIDDEN)), (4, WIDTH))
    graph = dense_graph(source, batch="dynamic").model.graph
    assert [n.op_type for n in graph.node if n.op_type in RECURRENT] == ["GRU"]
