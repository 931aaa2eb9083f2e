"""Values that a mask selects (`x[mask]`), and places of tables, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from plain_models import N, Plain, classes, error_of, error_on_more
from torch import nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def squared(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(out[y != -1], y[y != -1])


def by_hand(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    known = y != -1
    return (out[known] - y[known]).abs().pow(1.5).sum() / known.sum()


def logarithms(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    known = y > 0  # elsewhere there is no logarithm
    return ((out[known] - torch.log(y[known])) ** 2).mean()


def rows(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    whole = y.amax(1) > 0
    return ((out[whole] - y[whole]) ** 2).sum(-1).mean()


def selected(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    known = y > -0.5
    return (
        F.smooth_l1_loss(
            torch.masked_select(out, known), y.masked_select(known), reduction="sum"
        )
        / known.sum()
    )


LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (squared, by_hand, logarithms, rows, selected)
}


def gaps(loss: Loss) -> Case:
    y = torch.where(torch.rand(N, 4) < 0.3, -1.0, torch.randn(N, 4))
    return Case(nn.Linear(8, 4), torch.randn(N, 8), y, loss)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_what_is_selected_train_as_torchs_do(name: str) -> None:
    assert error_of(lambda: gaps(LOSSES[name])) < 1e-4
    assert error_on_more(lambda: gaps(LOSSES[name])) < 1e-4


def labelled() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out[y >= 0], y[y >= 0])

    labels = torch.randint(-1, 4, (N, 5))
    return Case(nn.Linear(8, 4), torch.randn(N, 5, 8), labels, loss)


def unknown_numbers() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        apart = (out - torch.nan_to_num(y)) ** 2
        return torch.where(torch.isnan(y), torch.zeros_like(y), apart).mean()

    y = torch.where(torch.rand(N, 4) < 0.3, torch.nan, torch.randn(N, 4))
    return Case(nn.Linear(8, 4), torch.randn(N, 8), y, loss)


EDGES = (torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 2]))


def graph(*, scattered: bool) -> Case:
    """Neighbours add up along the edges of one graph."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h, (source, goal) = m.layer(x), EDGES
        if scattered:
            places = goal[None, :, None].expand(len(x), -1, 8)
            found = torch.zeros_like(h).scatter_add(1, places, h[:, source])
        else:
            found = torch.zeros_like(h).index_add_(1, goal, h[:, source], alpha=0.5)
        return m.head(torch.relu(found).mean(1))

    return classes(Plain(run, layer=nn.Linear(4, 8), head=nn.Linear(8, 4)), 5, 4)


def stepped(*, held: bool) -> Case:
    """A table's entries by a number that each example brings."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        step = x[:, 0].abs().mul(10).long().clamp(0, 19)
        table = torch.linspace(0.1, 1.0, 20) if held else m.table
        return m.layer(x * table[step][:, None])

    table = nn.Parameter(torch.rand(20))
    return classes(Plain(run, layer=nn.Linear(8, 4), table=table), 8)


MODELS: dict[str, Callable[[], Case]] = {
    "labels of some places": labelled,
    "targets that are no numbers": unknown_numbers,
    "edges by index_add": lambda: graph(scattered=False),
    "edges by scatter_add": lambda: graph(scattered=True),
    "a constant table": lambda: stepped(held=True),
    "a trained table": lambda: stepped(held=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(MODELS[name]) < 1e-4
    assert error_on_more(MODELS[name]) < 1e-4
