"""Recurrent layers that begin at a given state, or whose last state is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of
from plain_models import N, Plain, classes, copies, error_of
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")


def steps_by_cell() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 6)
        for step in range(x.shape[1]):
            h = m.cell(x[:, step], h)
        return m.head(h)

    return classes(Plain(run, cell=nn.GRUCell(5, 6), head=nn.Linear(6, 4)), 4, 5)


def learned_start() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        start = m.start.expand(1, x.shape[0], 6).contiguous()
        return m.head(m.gru(x, start)[0][:, -1])

    model = Plain(
        run,
        start=nn.Parameter(torch.randn(1, 1, 6)),
        gru=nn.GRU(5, 6, batch_first=True),
        head=nn.Linear(6, 4),
    )
    return classes(model, 4, 5)


def zero_start() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        start = torch.zeros(1, x.shape[0], 6), torch.zeros(1, x.shape[0], 6)
        return m.head(m.lstm(x, start)[0][:, -1])

    model = Plain(run, lstm=nn.LSTM(5, 6, batch_first=True), head=nn.Linear(6, 4))
    return classes(model, 4, 5)


def lstm_steps() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        state = None
        for step in range(x.shape[1]):
            state = m.cell(x[:, step], state)
        return m.head(torch.cat(state, 1))

    return classes(Plain(run, cell=nn.LSTMCell(5, 6), head=nn.Linear(12, 4)), 4, 5)


def plain_steps() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(m.first(x[:, 0]))
        for step in range(x.shape[1]):
            h = m.relu(x[:, step], m.tanh(x[:, step], h))
        return m.head(h)

    cells = {k: nn.RNNCell(5, 6, nonlinearity=k) for k in ("tanh", "relu")}
    model = Plain(run, first=nn.Linear(5, 6), head=nn.Linear(6, 4), **cells)
    return classes(model, 3, 5)


def sequence_to_sequence() -> Case:
    """An LSTM's last states begin a second one, both of two layers."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        _, states = m.encode(x)
        return m.out(m.decode(x.flip(1), states)[0])

    lstm = {k: nn.LSTM(5, 4, 2, batch_first=True) for k in ("encode", "decode")}
    return copies(Plain(run, out=nn.Linear(4, 5), **lstm), 6, 5)


def both_directions() -> Case:
    """States of two directions, from a layer over the series, the sequence first."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        start = m.start(x.mean(1)).reshape(-1, 2, 4).transpose(0, 1).contiguous()
        out, last = m.gru(x.transpose(0, 1), start)
        return m.head(torch.cat([out[0], last[0], last[1]], 1))

    gru = nn.GRU(5, 4, bidirectional=True)
    model = Plain(run, start=nn.Linear(5, 8), gru=gru, head=nn.Linear(16, 4))
    return classes(model, 6, 5)


def last_cell_alone() -> Case:
    model = Plain(
        lambda m, x: m.head(m.lstm(x)[1][1][-1]),
        lstm=nn.LSTM(5, 6, batch_first=True, bidirectional=True),
        head=nn.Linear(6, 4),
    )
    return classes(model, 4, 5)


def one_of_two_states() -> Case:
    """A hidden state from a layer, the cell state zero; plain RNN behind it."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(m.start(x[:, 0])).unsqueeze(0)
        y = m.lstm(x, (h, torch.zeros_like(h)))[0]
        return m.head(m.rnn(y, h)[1].squeeze(0))

    model = Plain(
        run,
        start=nn.Linear(5, 6),
        lstm=nn.LSTM(5, 6, batch_first=True, bias=False),
        rnn=nn.RNN(6, 6, batch_first=True),
        head=nn.Linear(6, 4),
    )
    return classes(model, 4, 5)


MODELS = [
    steps_by_cell, learned_start, zero_start, lstm_steps, plain_steps,
    sequence_to_sequence, both_directions, last_cell_alone, one_of_two_states,
]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_it_trains_as_torch_does(make: Callable[[], Case]) -> None:
    assert error_of(make) < 1e-4


def test_the_update_is_the_same_for_any_number_of_threads() -> None:
    torch.manual_seed(2)
    case = sequence_to_sequence()
    found = []
    for threads in (1, 3):
        ours = loaded(case, mask_of(case.model, 0.4), threads=threads)
        ours.backward(case.inputs.numpy(), case.targets.numpy())
        found.append(ours.gradient_vector.copy())
    assert found[0].any()
    assert np.array_equal(*found)


def test_a_state_that_is_not_of_the_batch_is_refused_with_its_layer() -> None:
    start = nn.Parameter(torch.randn(1, N, 6))  # another one for each sample
    model = Plain(
        lambda m, x: m.gru(x, m.start)[0][:, -1],
        start=start,
        gru=nn.GRU(5, 6, batch_first=True),
    )
    batch = torch.randn(N, 4, 5), torch.randint(0, 6, (N,))
    with pytest.raises(EngineError, match=r"layer gru: gru.*first state"):
        capture(model, F.cross_entropy, *batch)
