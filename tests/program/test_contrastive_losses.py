"""Contrastive losses: each example's views among those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import N, Plain, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")

Views = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def two_views(of: Views, width: int = 5) -> Case:
    """A model of two views of an example; its targets have no part."""

    def run(m: Any, x: torch.Tensor) -> Any:
        one, two = (m.body(x[:, k]) for k in range(2))
        return F.normalize(one, dim=1), F.normalize(two, dim=1)

    body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, width))
    model = Plain(run, body=body)
    return Case(model, torch.randn(N, 2, 6), torch.zeros(N), lambda out, y: of(*out))


def one_way(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(a @ b.t() / 0.2, torch.arange(len(a)))


def both_ways(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    logits, own = 7 * torch.mm(a, b.T), torch.arange(a.size(0))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def by_einsum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    logits = torch.einsum("nd,md->nm", a, b)
    return nn.CrossEntropyLoss()(logits, torch.arange(len(a)))


def all_views(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SimCLR: each view's partner among all others."""
    z = torch.cat([a, b])
    alike = (z @ z.t() / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    return F.cross_entropy(alike, torch.arange(len(z)).roll(len(a)))


def with_a_bar(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.cat([a, b], dim=0)
    alike = torch.matmul(z, z.T) * 3 - 1e9 * torch.eye(len(z))
    own = torch.cat([torch.arange(len(a)) + len(a), torch.arange(len(a))])
    return F.cross_entropy(alike, own)


def by_cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    alike = F.cosine_similarity(3 * a.unsqueeze(1), b.unsqueeze(0), dim=-1) / 0.2
    return F.cross_entropy(alike, torch.arange(len(a)))


def all_cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.cat([2 * a, b])
    alike = F.cosine_similarity(z.unsqueeze(1), z.unsqueeze(0), dim=2)
    alike = alike.masked_fill(torch.eye(len(z)).bool(), float("-inf"))
    return F.cross_entropy(alike, torch.arange(len(z)).roll(len(a)))


def side_by_side(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.stack([a, b], 1).view(-1, a.shape[1])
    alike = z @ z.t()
    alike.fill_diagonal_(float("-inf"))
    return F.cross_entropy(alike, torch.arange(len(z)) ^ 1)


def learned_scale() -> Case:
    """CLIP's: the temperature is a parameter that the model returns."""

    def run(m: Any, x: torch.Tensor) -> Any:
        one, two = m.one(x[:, 0]), m.two(x[:, 1])
        return m.scale.exp() * one @ two.t() if m.training else one

    scale = nn.Parameter(torch.tensor(0.3))
    model = Plain(run, one=nn.Linear(6, 4), two=nn.Linear(6, 4), scale=scale)
    return Case(
        model, torch.randn(N, 2, 6), torch.zeros(N), lambda out, y: diagonal(out)
    )


def diagonal(logits: torch.Tensor) -> torch.Tensor:
    own = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own))


LOSSES: dict[str, Callable[[], Case]] = {
    **{
        of.__name__: lambda of=of: two_views(of)  # type: ignore[misc]
        for of in (
            *(one_way, both_ways, by_einsum, all_views, with_a_bar, side_by_side),
            *(by_cosines, all_cosines),
        )
    },
    "learned_scale": learned_scale,
}


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(LOSSES[name]) < 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_captured_on_a_few_examples_fits_any_number(name: str) -> None:
    assert error_on_more(LOSSES[name]) < 1e-4


@pytest.mark.parametrize("samples", [1, 2, 17, 40])
def test_it_is_right_for_any_batch_and_any_number_of_threads(samples: int) -> None:
    torch.manual_seed(1)
    case = two_views(all_views, width=3)
    x, y = torch.randn(samples, 2, 6), torch.zeros(samples)
    found = []
    for threads in (1, 2, 4):
        program = loaded(case, Mask({}), threads=threads)
        loss = program.backward(x.numpy(), y.numpy())
        found.append((loss, program.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]
    expected = case.loss(case.model(x), y)
    assert found[0][0] == pytest.approx(expected.item(), rel=1e-5)


def by_hand(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    alike = torch.exp(a @ b.t() / 0.2)
    return -torch.log(torch.diag(alike) / alike.sum(1)).mean()


def by_hand_both_ways(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    alike = (torch.mm(a, b.T) * 4).exp()
    shares = [alike.diagonal() / alike.sum(dim=k) for k in range(2)]
    return -(shares[0].log() + shares[1].log()).mean()


def by_shares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    alike = a @ b.t() * 5
    ways = F.log_softmax(alike, dim=1), F.log_softmax(alike, dim=0)
    return -(ways[0].diag() + 2 * ways[1].diag()).mean()


def by_logarithms(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    alike = a @ b.t() * 5
    return (torch.logsumexp(alike, 1) - alike.diag()).mean()


def all_views_by_hand(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SimCLR as its paper writes it: no view is compared with itself."""
    z = torch.cat([a, b])
    alike = torch.exp(z @ z.t() / 0.5) * ~torch.eye(len(z), dtype=torch.bool)
    own = torch.exp((a * b).sum(1) / 0.5)
    return -torch.log(torch.cat([own, own]) / alike.sum(dim=-1)).mean()


def filled_by_hand(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.cat([a, b])
    alike = torch.exp(z @ z.t()).masked_fill(torch.eye(len(z)).bool(), 0.0)
    return torch.log(alike.sum(1)).mean()


BY_HAND = {
    of.__name__: of
    for of in (
        *(by_hand, by_hand_both_ways, by_shares, by_logarithms),
        *(all_views_by_hand, filled_by_hand),
    )
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_contrast_by_hand_is_torchs_for_any_number_of_examples(name: str) -> None:
    assert error_of(lambda: two_views(BY_HAND[name])) < 1e-4
    assert error_on_more(lambda: two_views(BY_HAND[name])) < 1e-4


REFUSED: dict[str, tuple[Views, str]] = {
    "targets of other examples": (
        lambda a, b: F.cross_entropy(a @ b.t(), torch.zeros(len(a), dtype=torch.long)),
        "do not name each example's partner",
    ),
    "squares of pairs": (
        lambda a, b: (a @ b.t()).square().sum(1).mean(),
        "it takes products of all pairs of examples",
    ),
    "a weighted sum": (
        lambda a, b: (
            ((a @ b.t()).exp() * torch.ones(len(a), len(a)).tril()).sum(1).mean()
        ),
        "hides more than the diagonal",
    ),
    "another diagonal": (
        lambda a, b: (a @ b.t()).exp().diagonal(1).mean(),
        "another diagonal",
    ),
    "a filled triangle": (
        lambda a, b: F.cross_entropy(
            (a @ b.t()).masked_fill(torch.ones(len(a), len(a)).tril().bool(), -1e9),
            torch.arange(len(a)),
        ),
        "more than the diagonal",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_products_of_pairs_are_refused_by_name(name: str) -> None:
    of, said = REFUSED[name]
    case = two_views(of)
    with pytest.raises(
        EngineError,
        match=rf"layer loss: .*\(test_contrastive_losses.py:\d+\): .*{said}",
    ):
        capture(case.model, case.loss, case.inputs, case.targets)
