"""Losses that see the whole batch: roots, shares and products of means over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, three_steps
from plain_models import N, Plain, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")

Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def net(loss: Loss, targets: torch.Tensor, out: int = 3) -> Case:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, out))
    return Case(model, torch.randn(len(targets), 6), targets, loss)


def values(loss: Loss) -> Case:
    return net(loss, torch.randn(N, 3))


def labels(loss: Loss) -> Case:
    return net(loss, torch.randint(0, 3, (N,)))


def masks(loss: Loss) -> Case:
    return net(loss, torch.randint(0, 2, (N, 3)).float())


def overlap(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Dice over the whole batch, flattened as people write it."""
    p, t = torch.sigmoid(out).view(-1), y.view(-1)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def concordance(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = out[:, 0], y[:, 0]
    shared = ((x - x.mean()) * (y - y.mean())).mean()
    apart = x.var(unbiased=False) + y.var(unbiased=False) + (x.mean() - y.mean()) ** 2
    return 1 - 2 * shared / (apart + 1e-6)


def correlation(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = out - out.mean(0), y - y.mean(0)
    return 1 - ((x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0) + 1e-6)).mean()


def spread(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of VICReg: each feature varies over the batch."""
    apart = F.relu(1 - torch.sqrt(out.var(0) + 1e-4)).mean()
    return F.mse_loss(out, y) + 0.1 * apart + 0.01 * out.mean(0).pow(2).sum()


def focal(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As it is often written: of the batch's mean, not of each example."""
    own = F.cross_entropy(out, y, weight=torch.tensor([1.0, 2.0, 3.0]))
    return (1 - torch.exp(-own)) ** 2 * own


def padded(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen = (y > -0.5).float()
    return ((out - y) ** 2 * seen).sum() / seen.sum()


LOSSES: dict[str, Callable[[], Case]] = {
    "root of the mean square": lambda: values(
        lambda out, y: torch.sqrt(F.mse_loss(out, y))
    ),
    "the same by hand": lambda: values(
        lambda out, y: (((out - y) ** 2).mean() + 1e-8) ** 0.5
    ),
    "root of Huber beside a mean": lambda: values(
        lambda out, y: F.huber_loss(out, y, delta=0.5).sqrt() + 0.3 * F.l1_loss(out, y)
    ),
    "smooth terms": lambda: values(
        lambda out, y: (
            F.smooth_l1_loss(out, y, reduction="none", beta=0.7).sum(1).mean()
        )
    ),
    "a product of losses": lambda: values(
        lambda out, y: F.mse_loss(out, y) * torch.log1p(F.smooth_l1_loss(out, y))
    ),
    "dice of the batch": lambda: masks(overlap),
    "logistic of the batch": lambda: masks(
        lambda out, y: torch.sqrt(
            F.binary_cross_entropy_with_logits(out, y, pos_weight=torch.tensor(2.0))
        )
    ),
    "focal of the batch": lambda: labels(focal),
    "mean of what is seen": lambda: values(padded),
    "sum by the number of values": lambda: values(
        lambda out, y: ((out - y) ** 2).sum() / y.numel()
    ),
    "concordance": lambda: values(concordance),
    "correlation": lambda: values(correlation),
    "spread": lambda: values(spread),
    "norm of all errors": lambda: values(lambda out, y: 0.1 * torch.norm(out - y)),
    "standardised": lambda: values(
        lambda out, y: F.mse_loss((out - out.mean()) / (out.std() + 1), y)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(LOSSES[name]) < 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_captured_on_a_few_examples_fits_any_number(name: str) -> None:
    assert error_on_more(LOSSES[name]) < 1e-4


@pytest.mark.parametrize("samples", [1, 2, 16, 17])
def test_padded_lanes_have_no_part_in_it(samples: int) -> None:
    torch.manual_seed(1)
    case = values(lambda out, y: torch.sqrt(F.mse_loss(out, y) + 0.1))
    program = loaded(case, Mask({}), double=True)
    x, y = torch.randn(samples, 6), torch.randn(samples, 3)
    found = program.backward(x.numpy(), y.numpy())
    loss = case.loss(case.model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    assert found == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is not None
        own = program.gradients[name]
        np.testing.assert_allclose(own, parameter.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    torch.manual_seed(5)
    case = values(LOSSES["spread"]().loss)
    x, y = torch.randn(40, 6).numpy(), torch.randn(40, 3).numpy()
    found = []
    for threads in (1, 2, 4):
        program = loaded(case, Mask({}), threads=threads)
        found.append((program.backward(x, y), program.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]


def test_a_batch_in_parts_is_refused_with_the_operation() -> None:
    case = values(lambda out, y: torch.sqrt(F.mse_loss(out, y)))
    program = loaded(case, Mask({}))
    batch = case.inputs.numpy(), case.targets.numpy()
    with pytest.raises(EngineError, match=r"batch_sum.*sees the whole batch") as caught:
        program.backward(*batch, micro_batch=2, ghost_norm=True)
    assert caught.value.help
    assert program.step_plan(64, ghost_norm=True).at_once == 64


def test_a_ceiling_names_the_loss_that_needs_its_batch() -> None:
    program = loaded(values(LOSSES["spread"]().loss), Mask({}))
    ceiling = MemoryCeiling(1 << 20, held=1 << 20)
    with pytest.raises(EngineError, match="; its loss needs the batch whole"):
        program.hold_to(ceiling, 64, ghost_norm=True, half=False)


def test_predictions_that_depend_on_the_batch_are_refused() -> None:
    model = Plain(lambda m, x: m.layer(x - x.mean(0)), layer=nn.Linear(4, 3))
    with pytest.raises(EngineError, match=r"mean.dim .*works along the batch"):
        capture(model, F.cross_entropy, torch.randn(N, 4), torch.arange(N) % 3)


def test_three_optimizers_take_the_same_steps() -> None:
    for optimizer in ("momentum", "adam", "adamw"):
        torch.manual_seed(7)
        case = masks(overlap)
        assert three_steps(case, Mask({}), optimizer) < 1e-4
