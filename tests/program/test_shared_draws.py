"""Draws that all examples of a batch share, and batches in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import Plain, classes
from torch import nn
from torch.distributions import Beta, Dirichlet

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")
N, WIDE = 21, 256
Draw = Callable[[Any, torch.Tensor], torch.Tensor]

DRAWS: dict[str, tuple[Draw, float, float]] = {
    "a row": (lambda m, x: torch.randn(1, WIDE), 0.0, 1.0),
    "without a batch axis": (lambda m, x: torch.rand(WIDE), 0.5, 12**-0.5),
    "as a weight": (lambda m, x: torch.randn_like(m.layer.bias), 0.0, 1.0),
    "ones and zeros": (
        lambda m, x: torch.bernoulli(torch.full((WIDE,), 0.3)),
        0.3,
        0.21**0.5,
    ),
    "whole numbers": (
        lambda m, x: torch.randint(0, 3, (1, WIDE)).float(),
        1.0,
        (2 / 3) ** 0.5,
    ),
    "beta": (lambda m, x: Beta(2.0, 2.0).sample((1, WIDE)), 0.5, 0.05**0.5),
    "dirichlet": (
        lambda m, x: Dirichlet(torch.ones(2)).sample((WIDE,))[:, 0],
        0.5,
        12**-0.5,
    ),
    "around a weight": (lambda m, x: torch.normal(m.layer.bias, 2.0), 0.0, 2.0),
}


def drawing(draw: Draw) -> Case:
    """What is drawn comes out beside a weight of zero."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return draw(m, x) + m.layer(x)

    layer = nn.Linear(4, WIDE)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    model = Plain(run, layer=layer)
    return Case(model, torch.randn(N, 4), torch.randn(N, WIDE), F.mse_loss)


@pytest.mark.parametrize("name", DRAWS)
def test_every_example_gets_the_same_numbers(name: str) -> None:
    torch.manual_seed(0)
    draw, mean, deviation = DRAWS[name]
    case = drawing(draw)
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    assert (found == found[0]).all()
    assert abs(found[0].mean() - mean) < 5 * deviation / WIDE**0.5
    assert found[0].std() == pytest.approx(deviation, rel=0.2)
    off = found[0] - found[0].mean()
    assert abs((off[1:] * off[:-1]).mean()) < 5 * deviation**2 / WIDE**0.5
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert told.file, told.reason


@pytest.mark.parametrize("name", ["a row", "beta", "as a weight"])
def test_the_same_numbers_for_any_threads_and_parts_of_a_batch(name: str) -> None:
    case = drawing(DRAWS[name][0])

    def drawn(model: ProgramModel, draw: int, **options: Any) -> Any:
        zeros = np.zeros((N, WIDE), np.float32)
        model.backward(case.inputs.numpy(), zeros, draw=draw, **options)
        return model.gradients["layer.bias"].copy()

    one, two, four = (loaded(case, Mask({}), threads=n) for n in (1, 2, 4))
    first = drawn(one, 5)
    for other in (two, four, one):
        np.testing.assert_array_equal(first, drawn(other, 5))
    parts = drawn(one, 5, micro_batch=8)
    np.testing.assert_allclose(first, parts, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(first, drawn(one, 6))


def test_weights_lose_the_same_values_for_all_examples() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, F.dropout(m.layer.weight, 0.4, training=True))

    layer = nn.Linear(16, 9, bias=False)
    nn.init.ones_(layer.weight)
    case = Case(Plain(run, layer=layer), torch.eye(16), torch.randn(16, 9), F.mse_loss)
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert told.file, told.reason
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    kept = np.unique(found.round(5))
    np.testing.assert_allclose(kept, [0, 1 / 0.6], rtol=1e-4)
    twice = torch.eye(16).repeat(2, 1)
    more = loaded(case, Mask({})).predict(twice.numpy())
    np.testing.assert_array_equal(more[:16], more[16:])


class Mixing(nn.Module):
    """Each example with another one of its batch; in evaluation by itself."""

    def __init__(self, order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.order, self.layer = order, nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        if not self.training:
            return self.layer(x)
        share = Beta(0.4, 0.4).sample()
        other = self.order(torch.arange(len(x)).unsqueeze(1) * 0 + x)
        return self.layer(share * x + (1 - share) * other)


ORDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flipped": lambda x: x.flip(0),
    "rolled": lambda x: x.roll(2, 0),
    "drawn": lambda x: x[torch.randperm(len(x))],
}


@pytest.mark.parametrize("name", ORDERS)
def test_mixed_examples_train_as_torchs_do(name: str) -> None:
    torch.manual_seed(0)
    case = classes(Mixing(ORDERS[name]), 8)
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert told.file, told.reason


@pytest.mark.parametrize("samples", [2, 7, 33])
@pytest.mark.parametrize("name", ORDERS)
def test_an_order_is_one_of_the_batch_for_any_threads(name: str, samples: int) -> None:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (out * ORDERS[name](y)).mean()

    layer = nn.Linear(samples, 1, bias=False)
    case = Case(
        layer, torch.eye(samples), torch.arange(1.0, samples + 1)[:, None], loss
    )
    model = loaded(case, Mask({}))
    found = []
    for draw in range(3):
        model.backward(case.inputs.numpy(), case.targets.numpy(), draw=draw)
        found.append(samples * model.gradients["weight"].reshape(-1).copy())
        np.testing.assert_allclose(
            np.sort(found[-1]), np.arange(1, samples + 1), rtol=1e-5
        )
        several = loaded(case, Mask({}), threads=4)
        several.backward(case.inputs.numpy(), case.targets.numpy(), draw=draw)
        assert (
            several.gradients["weight"].tobytes() == model.gradients["weight"].tobytes()
        )
    if name != "drawn":
        wanted = ORDERS[name](case.targets).numpy().reshape(-1)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    elif samples > 7:
        assert not np.array_equal(found[0], found[1])


REFUSED: dict[str, tuple[Draw, str, str]] = {
    "an order of places": (
        lambda m, x: m.layer(x)[:, torch.randperm(WIDE)],
        "an order of 256 places",
        "argsort",
    ),
    "an order in evaluation": (
        lambda m, x: m.layer(x)[torch.randperm(len(x))],
        "order of the batch",
        "training",
    ),
    "a gradient of a gamma draw": (
        lambda m, x: torch.distributions.Gamma(m.layer(x).exp(), 1.0).rsample(),
        "have no gradient",
        "sample()",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_is_refused_in_words(name: str) -> None:
    draw, said, remedy = REFUSED[name]
    case = drawing(draw)
    with pytest.raises(EngineError, match=said) as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert remedy in caught.value.help
