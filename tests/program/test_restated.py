"""Packed sequences, pixels at computed places and others, by simpler functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from plain_models import N, Plain, classes, error_of, error_on_more
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")

STEPS = 6
TABLE = torch.linspace(-1, 1, 30).reshape(5, 6).cos()
Run = Callable[[Any, torch.Tensor], torch.Tensor]


def lengths_of(x: torch.Tensor) -> torch.Tensor:
    return (x.abs().sum(2) > 0).sum(1)


def padded(run: Run, rnn: nn.Module, width: int) -> Case:
    """Sequences of different lengths; one has all steps, one a single step."""
    case = classes(Plain(run, rnn=rnn, head=nn.Linear(width, 4)), STEPS, 3)
    lengths = torch.tensor([6, 1, 3, 5, 2, 4, 3])
    case.inputs[torch.arange(STEPS) >= lengths[:, None]] = 0.0
    return case


def last_state(m: Any, x: torch.Tensor) -> torch.Tensor:
    given = pack_padded_sequence(x, lengths_of(x), True, enforce_sorted=False)
    last = m.rnn(given)[1]
    last = last[0] if isinstance(last, tuple) else last
    return m.head(last.transpose(0, 1).flatten(1))


def all_steps(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The mean over each sequence's own steps, the steps first in all calls."""
    lengths = lengths_of(x).cpu()
    given = pack_padded_sequence(x.transpose(0, 1), lengths, enforce_sorted=False)
    out, own = pad_packed_sequence(m.rnn(given)[0], total_length=STEPS + 1)
    return m.head(out.sum(0) / own.unsqueeze(1))


def padded_by_a_number(m: Any, x: torch.Tensor) -> torch.Tensor:
    given = pack_padded_sequence(x, lengths_of(x), True, enforce_sorted=False)
    out, _ = pad_packed_sequence(m.rnn(given)[0], True, padding_value=-2.0)
    return m.head(out.amax(1))


def given_state(m: Any, x: torch.Tensor) -> torch.Tensor:
    given = pack_padded_sequence(x, lengths_of(x), True, enforce_sorted=False)
    start = x.mean((1, 2)).reshape(1, -1, 1).expand(2, -1, 4).contiguous()
    return m.head(pad_packed_sequence(m.rnn(given, start)[0], True)[0].sum(1))


def both(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    return kind(3, 4, batch_first=True, bidirectional=True, **options)


PACKED: dict[str, Callable[[], Case]] = {
    "GRU": lambda: padded(last_state, nn.GRU(3, 4, batch_first=True), 4),
    "GRU of two layers, both ways": lambda: padded(
        last_state, both(nn.GRU, num_layers=2), 16
    ),
    "LSTM both ways": lambda: padded(last_state, both(nn.LSTM), 8),
    "LSTM without bias, all steps": lambda: padded(
        all_steps, nn.LSTM(3, 4, 2, bias=False), 4
    ),
    "RNN both ways": lambda: padded(padded_by_a_number, both(nn.RNN), 8),
    "a given state": lambda: padded(given_state, both(nn.GRU), 8),
}


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_sequences_train_as_torchs_do(name: str, optimizer: str) -> None:
    torch.manual_seed(5)
    case = PACKED[name]()
    assert three_steps(case, mask_of(case.model, 0.5), optimizer) < 1e-4


@pytest.mark.parametrize("name", PACKED)
def test_padding_counts_for_nothing(name: str) -> None:
    """What a longer batch pads with is no part of a prediction."""
    torch.manual_seed(5)
    case = PACKED[name]()
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    with torch.no_grad():
        expected = case.model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def warped(padding: str, *, align: bool) -> Case:
    """A spatial transformer: a layer says how the image is turned and moved."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        turn = m.body(x.flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(turn, [len(x), 2, 4, 5], align_corners=align)
        seen = F.grid_sample(x, grid, padding_mode=padding, align_corners=align)
        return m.head(torch.tanh(seen).flatten(1))

    model = Plain(run, body=nn.Linear(60, 6), head=nn.Linear(40, 4))
    with torch.no_grad():
        model.body.bias.copy_(torch.tensor([1.1, 0.2, 0, -0.1, 0.9, 0.1]))  # type: ignore[union-attr, operator]
    return classes(model, 2, 6, 5)


def plain(of: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    layers = {"body": nn.Linear(6, 4), "head": nn.Linear(4, 4)}
    return classes(Plain(lambda m, x: m.head(of(m.body(x))), **layers), 6)


def binned(m: Any, x: torch.Tensor) -> torch.Tensor:
    edges = torch.linspace(-1, 1, 7)
    found = m.table(torch.bucketize(x, edges)) + m.table(
        torch.searchsorted(edges, x, right=True)
    )
    return m.head(found.flatten(1))


def gaps(loss: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    def own(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss((out - y) ** 2)

    y = torch.where(torch.rand(N, 4) < 0.3, torch.nan, torch.randn(N, 4))
    return Case(nn.Linear(6, 4), torch.randn(N, 6), y, own)


def counts(*, log: bool) -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rate = out if log else F.softplus(out)
        return F.poisson_nll_loss(rate, y, log_input=log, full=True)

    y = torch.randint(0, 6, (N, 4)).float()
    return Case(nn.Linear(6, 4), torch.randn(N, 6), y, loss)


MODELS: dict[str, Callable[[], Case]] = {
    "a spatial transformer": lambda: warped("zeros", align=False),
    "corners aligned": lambda: warped("zeros", align=True),
    "borders go on": lambda: warped("border", align=False),
    "running products": lambda: plain(lambda h: torch.cumprod(h, 1)),
    "running products of a named dtype": lambda: plain(
        lambda h: (
            torch.cumprod(h, 1, dtype=torch.float32)
            + h.nanmean(1, True, dtype=torch.float32)
            + torch.searchsorted(torch.tensor([0.0, 1.0]), 0.5)
        )
    ),
    "products with a zero": lambda: plain(
        lambda h: (h * torch.tensor([1.0, 0, 1, 1])).cumprod(-1)
    ),
    "products with a table": lambda: classes(
        Plain(graph, body=nn.Linear(3, 2), head=nn.Linear(6, 4)), 6, 3
    ),
    "edges of bins": lambda: classes(
        Plain(binned, table=nn.Embedding(8, 3), head=nn.Linear(18, 4)), 6
    ),
    "counts": lambda: counts(log=False),
    "counts by logarithm": lambda: counts(log=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(MODELS[name]) < 1e-4
    assert error_on_more(MODELS[name]) < 1e-4


def test_means_of_what_are_numbers() -> None:
    """In the predictions: what is no number has a gradient of none in torch."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.layer(torch.stack([x.nanmean(1), torch.nansum(x, 1)], 1))

    torch.manual_seed(2)
    case = classes(Plain(run, layer=nn.Linear(2, 4)), 6)
    case.inputs[torch.rand(N, 6) < 0.3] = torch.nan
    assert three_steps(case, Mask({}), "adam") < 1e-4


def nearest(m: Any, x: torch.Tensor) -> torch.Tensor:
    grid = torch.cat([x, x], 1).permute(0, 2, 3, 1)
    return m.a(F.grid_sample(x, grid, "nearest", align_corners=False).flatten(1))


def graph(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Neighbours by a table of the code's own, before and behind a layer."""
    h = torch.relu(TABLE @ m.body(x))
    return m.head(h.transpose(1, 2) @ TABLE).mean(1)


REFUSED: dict[str, tuple[Callable[[], Case], str]] = {
    "nearest pixels": (
        lambda: classes(
            Plain(nearest, a=nn.Linear(16, 4)),
            *(1, 4, 4),
        ),
        "bilinear with padding by zeros or border, not nearest",
    ),
    "a reduction of no name": (
        lambda: Case(
            nn.Linear(6, 4),
            torch.randn(N, 6),
            torch.ones(N, 4),
            lambda out, y: F.poisson_nll_loss(out, y, reduction="average"),
        ),
        "no reduction is named 'average'",
    ),
    "long products": (
        lambda: classes(Plain(lambda m, x: m.a(x.cumprod(1)), a=nn.Linear(70, 4)), 70),
        "exp",
    ),
    "cell states of a packed LSTM": (
        lambda: padded(
            lambda m, x: m.head(
                m.rnn(pack_padded_sequence(x, lengths_of(x), True, False))[1][1][0] * 2
            ),
            nn.LSTM(3, 4, batch_first=True),
            4,
        ),
        "of a packed sequence",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused_with_line_and_remedy(name: str) -> None:
    make, said = REFUSED[name]
    case = make()
    with pytest.raises(EngineError, match=rf"test_restated.py:\d+.*{said}") as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert "torch engine trains this model" in caught.value.help
