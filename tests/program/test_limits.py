"""What programs cannot train is told with its place and its remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from plain_models import N, Plain, classes
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture

Make = Callable[[], Case]


def spectral(norm: Callable[[nn.Module], nn.Module]) -> Make:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head(m.body(x).mean(2))

    layers = {"body": norm(nn.Conv1d(2, 3, 3)), "head": nn.Linear(3, 4)}
    return lambda: classes(Plain(run, **layers), 2, 6)


def packed() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        lengths = (x.abs().sum(-1) > 0).sum(1)
        pack = nn.utils.rnn.pack_padded_sequence
        given = pack(x, lengths, batch_first=True, enforce_sorted=False)
        return m.head(m.rnn(given)[0].data.mean(0))

    rnn = nn.GRU(3, 5, batch_first=True)
    return classes(Plain(run, rnn=rnn, head=nn.Linear(5, 4)), 6, 3)


def connectionist() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes = [torch.full((len(t),), t.shape[1]) for t in (out, y)]
        row = y.flatten()[1:]  # belongs to examples as values say
        return F.ctc_loss(out.log_softmax(-1).transpose(0, 1), row, *sizes)

    labels = torch.randint(1, 4, (N, 2))
    return Case(nn.Linear(5, 4), torch.randn(N, 8, 5), labels, loss)


def chosen() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x)
        rows, _ = torch.where(x > 0)
        return y + y[rows].sum()

    return classes(Plain(run, layer=nn.Linear(5, 4)), 5)


def averaged() -> Case:
    norm = nn.BatchNorm1d(4, momentum=None)
    return classes(nn.Sequential(nn.Linear(5, 4), norm), 5)


def first() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return out[y > 0].cumsum(0).mean()

    return Case(nn.Linear(5, 4), torch.randn(N, 5), torch.randn(N), loss)


LIMITS: dict[str, tuple[Make, str, str]] = {
    "spectral norm": (
        spectral(nn.utils.parametrizations.spectral_norm),
        "^layer body: spectral norm takes a step",
        "remove_parametrizations",
    ),
    "older spectral norm": (
        spectral(nn.utils.spectral_norm),
        "^layer body: spectral norm takes a step",
        "remove_spectral_norm",
    ),
    "orthogonal weight": (
        spectral(nn.utils.parametrizations.orthogonal),
        "^layer body: an orthogonal weight is made of its parameter",
        "init.orthogonal_",
    ),
    "packed sequences": (
        packed,
        r"\(test_limits.py:\d+\): mean of a packed sequence",
        "lengths - 1",
    ),
    "places by a condition": (
        chosen,
        r"\(plain_models.py:\d+\): how many places it gives depends on values",
        "multiply",
    ),
    "statistics of all batches": (
        averaged,
        "^layer 1: statistics that weigh all batches alike",
        "momentum",
    ),
    "selected values in a sequence": (
        first,
        r"\(test_limits.py:\d+\): cumsum of what a mask selects",
        "divide by its sum",
    ),
    "CTC": (
        connectionist,
        r"\(test_limits.py:\d+\): programs have no CTC loss of targets in one row",
        "longest",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_told_with_its_place_and_its_remedy(name: str) -> None:
    make, said, remedy = LIMITS[name]
    case = make()
    with pytest.raises(EngineError, match=said) as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert remedy in caught.value.help
