"""Losses as people write them: each trains as torch does, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import N, Plain, classes, copies, error_of
from torch import nn
from torch.utils._pytree import tree_flatten

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")


def smoothed() -> Case:
    case = classes(nn.Sequential(nn.Linear(6, 8), nn.Mish(), nn.Linear(8, 4)), 6)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return Case(case.model, case.inputs, case.targets, loss)


def focal() -> Case:
    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        picked = F.cross_entropy(out, target, reduction="none")
        return ((1 - torch.exp(-picked)) ** 2 * picked).mean()

    case = classes(nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 4)), 6)
    return Case(case.model, case.inputs, case.targets, loss)


def quantile() -> Case:
    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        error = target - out
        return torch.maximum(0.9 * error, -0.1 * error).mean()

    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 1))
    return Case(model, torch.randn(N, 6), torch.randn(N, 1), loss)


def dice() -> Case:
    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(out)
        both = (p * target).sum((1, 2, 3))
        whole = p.sum((1, 2, 3)) + target.sum((1, 2, 3))
        return (1 - (2 * both + 1) / (whole + 1)).mean()

    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.InstanceNorm2d(6, affine=True),
        nn.LeakyReLU(), nn.Conv2d(6, 1, 1),
    )  # fmt: skip
    y = torch.randint(0, 2, (N, 1, 6, 6)).float()
    return Case(model, torch.randn(N, 2, 6, 6), y, loss)


def gaussian() -> Case:
    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mean, log_variance = out[:, 0], out[:, 1]
        return (
            0.5 * (log_variance + (target - mean).pow(2) / log_variance.exp())
        ).mean()

    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    return Case(model, torch.randn(N, 6), torch.randn(N), loss)


def knowledge() -> Case:
    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.kl_div(
            F.log_softmax(out / 2, 1), F.softmax(target / 2, 1), reduction="batchmean"
        )

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    return Case(model, torch.randn(N, 6), torch.randn(N, 4), loss)


def triplet() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, p, n = (m.body(x[:, k]) for k in range(3))
        return (a - p).norm(dim=1) - (a - n).norm(dim=1)

    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.relu(out + target).mean()

    return Case(
        Plain(run, body=nn.Linear(6, 4)),
        torch.randn(N, 3, 6),
        torch.full((N,), 0.7),
        loss,
    )


def two_heads(*, named: bool) -> Case:
    """Classes and positions packed into one array of targets."""

    def run(m: Any, x: torch.Tensor) -> Any:
        h = F.relu(m.body(x))
        both = m.kind(h), m.place(h)
        return {"kind": both[0], "place": both[1]} if named else both

    def loss(out: Any, y: torch.Tensor) -> torch.Tensor:
        kind, place = (out["kind"], out["place"]) if named else out
        return F.cross_entropy(kind, y[:, 0].long()) + 0.5 * F.mse_loss(place, y[:, 1:])

    body, kind, place = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 2)
    y = torch.cat([torch.randint(0, 4, (N, 1)).float(), torch.randn(N, 2)], 1)
    model = Plain(run, body=body, kind=kind, place=place)
    return Case(model, torch.randn(N, 6), y, loss)


def named_heads() -> Case:
    return two_heads(named=True)


def several_heads() -> Case:
    return two_heads(named=False)


def divergence_of_two() -> Case:
    """An autoencoder that returns its code's mean and spread beside the copy."""

    def run(m: Any, x: torch.Tensor) -> Any:
        mean, spread = m.mean(x), m.spread(x)
        return m.decode(mean + 0.3 * torch.exp(0.5 * spread)), mean, spread

    def loss(out: Any, y: torch.Tensor) -> torch.Tensor:
        copy, mean, spread = out
        apart = -0.5 * torch.sum(1 + spread - mean**2 - spread.exp(), dim=1)
        return F.mse_loss(copy, y) + 1e-2 * torch.mean(apart)

    layers = {"mean": nn.Linear(6, 3), "spread": nn.Linear(6, 3)}
    return copies(Plain(run, decode=nn.Linear(3, 6), **layers), 6, loss=loss)


def heads_loss(loss: Any) -> Case:
    case = classes(nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 4)), 6)
    return Case(case.model, case.inputs, case.targets, loss)


def picked() -> Case:
    """Focal, by the label's own logarithm."""

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        own = F.log_softmax(out, 1).gather(1, y.unsqueeze(1)).squeeze(1)
        return -((1 - own.exp()) ** 2 * own).mean()

    return heads_loss(loss)


def one_less() -> Case:
    """A share of overlap, taken from one; the mean is made of all of it."""

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p, t = out.softmax(1), F.one_hot(y, 4).float()
        share = ((p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        terms = [F.cross_entropy(out, y), (1 - share.mean()) + 2]
        return sum(terms).mean()

    return heads_loss(loss)


def alike() -> Case:
    """Cosines and hyperbolic functions."""

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        apart = 1 - F.cosine_similarity(out, F.one_hot(y, 4).float(), dim=1)
        return apart.mean() + torch.log(torch.cosh(out)).mean()

    return heads_loss(loss)


def in_a_row(loss: Any, words: int = 5) -> Case:
    """A sequence's predictions and targets, one after the other."""
    model = nn.Sequential(nn.Embedding(words, 6), nn.Linear(6, words))
    x = torch.randint(0, words, (N, 4))
    return Case(model, x, x.roll(1, 1), loss)


def words_in_a_row() -> Case:
    return in_a_row(lambda out, y: F.cross_entropy(out.view(-1, 5), y.reshape(-1)))


def summed_by_hand() -> Case:
    return heads_loss(
        lambda out, y: F.cross_entropy(out, y, reduction="sum") / len(out)
    )


def terms_in_a_row() -> Case:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(out.view(-1, 5), y.reshape(-1), reduction="none")
        return (each * each.sigmoid()).mean() + F.smooth_l1_loss(
            out.sum(2).flatten(), y.flatten().float()
        )

    return in_a_row(loss)


MODELS = [words_in_a_row, summed_by_hand, terms_in_a_row, smoothed, focal, quantile,
          dice, gaussian, knowledge, triplet, named_heads, several_heads,
          divergence_of_two, picked, one_less, alike]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_it_trains_as_torch_does(make: Callable[[], Case]) -> None:
    assert error_of(make) < 1e-4


@pytest.mark.parametrize("make", [named_heads, several_heads])
def test_predictions_have_the_form_that_the_model_gives_them(
    make: Callable[[], Case],
) -> None:
    case = make()
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    expected = case.model.eval()(case.inputs)
    ours, theirs = tree_flatten(found), tree_flatten(expected)
    assert ours[1] == theirs[1]
    for one, two in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(torch.from_numpy(one), two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "give",
    [lambda y: (y, None), lambda y: [y, (y, y)], lambda y: {1: y}, lambda y: (y, 3)],
    ids=["none", "nested", "number", "whole"],
)
def test_predictions_of_another_form_are_refused_in_words(
    give: Callable[[torch.Tensor], Any],
) -> None:
    def loss(out: Any, y: torch.Tensor) -> torch.Tensor:
        first = next(iter(out.values())) if isinstance(out, dict) else out[0]
        return F.cross_entropy(first, y)

    model = Plain(lambda m, x: give(m.layer(x)), layer=nn.Linear(4, 3))
    with pytest.raises(EngineError, match="neither a tensor of the batch, nor a tuple"):
        capture(model, loss, torch.randn(N, 4), torch.arange(N) % 3)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda out, y: None, "loss returns None, not one number"),
    "one for each example": (
        lambda out, y: F.cross_entropy(out, y, reduction="none"),
        rf"loss returns a tensor \({N},\), not one number",
    ),
    "several": (lambda out, y: (F.cross_entropy(out, y), out), "loss returns a tuple"),
    "a number of Python's": (lambda out, y: 3.0, "loss returns a float"),
    "a constant": (lambda out, y: torch.tensor(3.0), "no parameter that trains"),
    "of targets alone": (lambda out, y: y.float().mean(), "no parameter that trains"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_that_trains_nothing_is_refused_in_words(name: str) -> None:
    loss, said = WRONG[name]
    with pytest.raises(EngineError, match=said) as raised:
        capture(nn.Linear(4, 3), loss, torch.randn(N, 4), torch.arange(N) % 3)
    assert raised.value.help
    assert "\n" not in str(raised.value)


def test_torch_says_nothing_itself_about_a_model_that_cannot_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = Plain(lambda m, x: m.layer(x[:, :3]), layer=nn.Linear(4, 3))
    with pytest.raises(EngineError, match=r"cannot be exported \(test_plain_losses"):
        capture(model, F.cross_entropy, torch.randn(N, 4), torch.arange(N) % 3)
    assert not "".join(capfd.readouterr())
