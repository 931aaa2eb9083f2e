"""Random numbers of a model: drawn by counter, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import Plain
from torch import nn
from torch.distributions import Beta as beta  # noqa: N813 - one line for each draw
from torch.distributions import Gamma as gamma  # noqa: N813
from torch.distributions import Laplace, StudentT

from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")
N, WIDE = 24, 512
Draw = Callable[[torch.Tensor], torch.Tensor]

# What is drawn, its mean and its deviation.
DRAWS: dict[str, tuple[Draw, float, float]] = {
    "randn_like": (torch.randn_like, 0.0, 1.0),
    "randn": (lambda x: torch.randn(x.shape), 0.0, 1.0),
    "rand_like": (torch.rand_like, 0.5, 12**-0.5),
    "rand": (lambda x: torch.rand(*x.shape), 0.5, 12**-0.5),
    "normal_": (lambda x: torch.empty_like(x).normal_(1.0, 2.0), 1.0, 2.0),
    "new_empty": (lambda x: x.new_empty(x.shape).normal_(), 0.0, 1.0),
    "normal": (lambda x: torch.normal(0 * x + 2, 0 * x + 0.5), 2.0, 0.5),
    "normal of constants": (
        lambda x: torch.normal(torch.zeros_like(x), torch.ones_like(x)),
        0.0,
        1.0,
    ),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 3), 1.0, 4 * 12**-0.5),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), 0.5, 0.5),
    "bernoulli": (lambda x: torch.bernoulli(0 * x + 0.3), 0.3, 0.21**0.5),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.2), 0.2, 0.4),
    "randint": (lambda x: torch.randint(2, 5, x.shape).float(), 3.0, (2 / 3) ** 0.5),
    "log_normal_": (
        lambda x: torch.empty_like(x).log_normal_(0.0, 0.5),
        1.1331,
        0.6039,
    ),
    "gamma": (lambda x: gamma(2.5, 0.5).sample(x.shape), 5.0, 10**0.5),
    "gamma of a small shape": (
        lambda x: gamma(0.3, 1.0).sample(x.shape),
        0.3,
        0.3**0.5,
    ),
    "beta": (lambda x: beta(2.0, 3.0).sample(x.shape), 0.4, 0.2),
    "beta of mixing": (
        lambda x: beta(0.2, 0.2).sample(x.shape),
        0.5,
        (0.25 / 1.4) ** 0.5,
    ),
    "computed gamma": (lambda x: gamma(0 * x + 4, 2.0).sample(), 2.0, 1.0),
    "laplace": (lambda x: Laplace(1.0, 0.5).sample(x.shape), 1.0, 0.5 * 2**0.5),
    "student": (lambda x: StudentT(9.0).sample(x.shape), 0.0, (9 / 7) ** 0.5),
}


def drawing(draw: Draw) -> Case:
    """What is drawn comes out beside a weight of zero."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = m.layer(x)
        return draw(y) + y

    layer = nn.Linear(4, WIDE)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Case(
        Plain(run, layer=layer), torch.randn(N, 4), torch.randn(N, WIDE), F.mse_loss
    )


def drawn(model: ProgramModel, case: Case, **options: Any) -> Any:
    """Targets minus what came out: of the gradient of the bias, example by example."""
    zeros = np.zeros((len(case.inputs), WIDE), np.float32)
    model.backward(case.inputs.numpy(), zeros, **options)
    return model.gradients["layer.bias"].copy()


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_have_their_distribution_and_torchs_steps(name: str) -> None:
    torch.manual_seed(0)
    draw, mean, deviation = DRAWS[name]
    case = drawing(draw)
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    count = found.size
    assert abs(found.mean() - mean) < 5 * deviation / count**0.5
    assert found.std() == pytest.approx(deviation, rel=0.05)
    # Neither neighbours nor examples resemble each other.
    off = found - found.mean()
    for one, two in ((off[:, 1:], off[:, :-1]), (off[1:], off[:-1])):
        assert abs((one * two).mean()) < 5 * deviation**2 / one.size**0.5
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert told.file, told.reason


@pytest.mark.parametrize("name", ["randn_like", "rand_like", "bernoulli"])
def test_the_same_numbers_for_any_threads_and_parts_of_a_batch(name: str) -> None:
    case = drawing(DRAWS[name][0])
    one, two = (loaded(case, Mask({}), threads=n) for n in (1, 2))
    first = drawn(one, case, draw=5)
    np.testing.assert_array_equal(first, drawn(two, case, draw=5))
    np.testing.assert_array_equal(first, drawn(one, case, draw=5))
    parts = drawn(one, case, draw=5, micro_batch=8)
    np.testing.assert_allclose(first, parts, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(first, drawn(one, case, draw=6))


def variational() -> tuple[nn.Module, torch.Tensor, Any]:
    """A variational autoencoder: mean and spread, reconstruction and divergence."""

    def run(m: Any, x: torch.Tensor) -> Any:
        mean, spread = m.encode(torch.relu(m.first(x))).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        return m.decode(z), mean, spread

    def loss(out: Any, x: torch.Tensor) -> torch.Tensor:
        made, mean, spread = out
        apart = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1).mean()
        return F.mse_loss(made, x) + 0.1 * apart

    torch.manual_seed(0)
    layers = {"first": nn.Linear(8, 16), "encode": nn.Linear(16, 6)}
    return Plain(run, **layers, decode=nn.Linear(3, 8)), torch.randn(256, 8), loss


def test_a_variational_autoencoder_trains_through_its_draws() -> None:
    model, x, loss = variational()
    told = compiled(model, loss, x, x)
    assert told.file, told.reason
    program = capture(model, loss, x, x)
    own = ProgramModel(program, Mask({}))
    state = {n: p.detach().numpy() for n, p in model.state_dict().items()}
    own.load({}, state)
    batch = x.numpy()
    losses, gradients = [], []
    for draw in range(400):
        losses.append(own.backward(batch, batch, draw=draw))
        gradients.append(own.gradients["encode.weight"].copy())
    with torch.enable_grad():  # the mean gradient over draws is torch's
        for _ in range(400):
            loss(model(x), x).backward()
    theirs = dict(model.named_parameters())["encode.weight"].grad.numpy() / 400
    apart = np.linalg.norm(np.mean(gradients, 0) - theirs) / np.linalg.norm(theirs)
    spread = np.std(gradients, 0) / 400**0.5
    assert apart < 6 * np.linalg.norm(spread) / np.linalg.norm(theirs)


def test_a_hard_choice_is_one_of_the_classes_by_the_same_draws() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.gumbel_softmax(m.layer(x), tau=0.7, hard=m.hard)

    found = []
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 5), torch.randn(N, 4)
    for hard in (True, False):
        model = Plain(run, layer=layer, hard=hard)
        case = Case(model, x, torch.eye(5).repeat(5, 1)[:N], F.mse_loss)
        assert compiled(model, case.loss, x, case.targets).file
        own = loaded(case, Mask({}))
        found.append(own.predict(x.numpy()))
    np.testing.assert_allclose(found[0].max(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sort(found[0])[:, :-1], 0, atol=1e-6)
    assert (found[0].argmax(1) == found[1].argmax(1)).all()
