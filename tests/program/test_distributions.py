"""`torch.distributions` in losses, and recurrences written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from plain_models import N, Plain, classes, error_of
from torch import nn
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from edge_sdk.program.capture import compiled


def policy() -> Case:
    """A distribution over classes: likelihood of actions, weighted, and entropy."""

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = Categorical(logits=out)
        gain = found.log_prob(y[:, 0].long()) * y[:, 1]
        return -gain.mean() - 0.01 * found.entropy().mean()

    actions = torch.randint(0, 4, (N,)).float()
    targets = torch.stack([actions, torch.randn(N)], 1)
    return Case(nn.Linear(6, 4), torch.randn(N, 6), targets, loss)


def mixture_density() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        share, mean, spread = out.chunk(3, 1)
        found = MixtureSameFamily(
            Categorical(logits=share),
            Normal(mean, spread.exp()),
        )
        return -found.log_prob(y).mean()

    return Case(nn.Linear(6, 9), torch.randn(N, 6), torch.randn(N), loss)


def recurrence_by_hand() -> Case:
    """Sums from zeros as long as the batch, which a parameter multiplies."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        held = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            held = torch.exp(m.decay) * held + torch.tanh(m.body(step))
        return m.head(held)

    layers = {"body": nn.Linear(6, 6), "head": nn.Linear(6, 4)}
    decay = nn.Parameter(-torch.rand(6))
    return classes(Plain(run, decay=decay, **layers), 3, 6)


MODELS: list[Callable[[], Case]] = [policy, mixture_density, recurrence_by_hand]


@pytest.mark.parametrize("make", MODELS)
def test_it_trains_as_torch_does(make: Callable[[], Case]) -> None:
    assert error_of(make) < 1e-4


def test_a_sample_of_a_distribution_is_drawn_by_the_board(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch.compile turns checks off for a whole process once any other test uses it.
    monkeypatch.setattr(Distribution, "_validate_args", True)

    def run(m: Any, x: torch.Tensor) -> Any:
        mean, spread = m.encode(x).chunk(2, 1)
        found = Normal(mean, F.softplus(spread) + 1e-3)
        rest = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        return m.decode(found.rsample()), kl_divergence(found, rest).sum(1)

    def loss(out: Any, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(out[0], y) + 0.1 * out[1].mean()

    torch.manual_seed(0)
    model = Plain(run, encode=nn.Linear(6, 8), decode=nn.Linear(4, 6))
    x = torch.randn(8, 6)
    told = compiled(model, loss, x, x)
    assert told.file, told.reason
    with pytest.raises(ValueError, match="scale"):  # checks are as they were
        Normal(torch.zeros(1), -torch.ones(1))
