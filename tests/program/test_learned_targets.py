"""Losses whose targets train, powers that train, and counts' likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from plain_models import N, Plain, classes, error_on_more
from torch import nn

from edge_sdk.kernels.library import unavailable_reason

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def of_both(loss: Loss) -> Case:
    """A loss between two halves of one prediction, both of which it moves."""

    def own(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(out[:, :4], torch.sigmoid(out[:, 4:])) + (out * y).mean()

    return Case(nn.Linear(6, 8), torch.randn(N, 6), torch.randn(N, 8), own)


def counted(loss: Loss, outputs: int) -> Case:
    y = torch.randint(0, 6, (N, 1)).float()
    return Case(nn.Linear(6, outputs), torch.randn(N, 6), y, loss)


def negative_binomial(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    mean, spread = (F.softplus(t) + 1e-3 for t in (out[:, :1], out[:, 1:]))
    size = 1 / spread
    ways = torch.lgamma(y + size) - torch.lgamma(size) - torch.lgamma(y + 1)
    odds = torch.log(size + mean)
    return -(ways + size * (size.log() - odds) + y * (mean.log() - odds)).mean()


def evidence(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    mean, v, a, b = (out[:, k : k + 1] for k in range(4))
    v, a, b = F.softplus(v), F.softplus(a) + 1, F.softplus(b)
    scale = 2 * b * (1 + v)
    terms = 0.5 * torch.log(math.pi / v) - a * scale.log()
    terms = terms + (a + 0.5) * torch.log(v * (y - mean) ** 2 + scale)
    return (terms + torch.lgamma(a) - (a + 0.5).lgamma()).mean()


def gamma_distributed(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    shape, rate = (F.softplus(t) + 0.1 for t in (out[:, :1], out[:, 1:]))
    return -torch.distributions.Gamma(shape, rate).log_prob(y + 0.5).mean()


def digammas(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    share = F.relu(out) + 1
    total = torch.digamma(share.sum(1, keepdim=True)) - torch.digamma(share)
    return (total * F.one_hot(y[:, 0].long(), 6).float()).sum(1).mean()


def asymmetric(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A focal loss with another power for labels that are there."""
    there = (y > 2).float()
    p = torch.sigmoid(out)
    sure = p * there + (1 - p) * (1 - there)
    return -(sure.log() * torch.pow(1 - sure, there + 4 * (1 - there))).mean()


def pooled(m: Any, x: torch.Tensor) -> torch.Tensor:
    """GeM: a mean of powers, whose exponent trains; some values are at the bound."""
    seen = m.body(x).clamp(min=1e-6).pow(m.power)
    found: torch.Tensor = m.head(seen.mean((2, 3)).pow(1.0 / m.power) + 2.0**m.power)
    return found


CASES: dict[str, Callable[[], Case]] = {
    "squares": lambda: of_both(F.mse_loss),
    "sizes": lambda: of_both(F.l1_loss),
    "smooth sizes": lambda: of_both(F.smooth_l1_loss),
    "Huber": lambda: of_both(F.huber_loss),
    "logits": lambda: of_both(F.binary_cross_entropy_with_logits),
    "classes": lambda: of_both(F.cross_entropy),
    "negative binomial": lambda: counted(negative_binomial, 2),
    "evidence": lambda: counted(evidence, 4),
    "gamma": lambda: counted(gamma_distributed, 2),
    "digamma": lambda: counted(digammas, 6),
    "a power for each value": lambda: counted(asymmetric, 1),
    "a power that trains": lambda: classes(
        Plain(
            pooled,
            body=nn.Conv2d(2, 6, 3),
            power=nn.Parameter(torch.full((1,), 2.5)),
            head=nn.Linear(6, 4),
        ),
        *(2, 6, 6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_on_more(CASES[name]) < 1e-4
