"""Corrections of local gradients against plain numpy, on both engines."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from program_models import on_program
from torch import nn

import coordinator
from coordinator.algorithms.base import RoundContext
from coordinator.algorithms.load import check_algorithm
from edge_sdk.errors import SettingsError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import batches, train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.rules.corrections import proximal
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Proximal

Array = NDArray[np.float64]
RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(24, 5)), RNG.integers(0, 3, size=24)
MASK = RNG.random((3, 5)) < 0.6
W, B = RNG.normal(size=(3, 5)) * MASK, RNG.normal(size=3)
engines = pytest.mark.parametrize("engine", ["masked", "program"])


def examples(_: Path = Path()) -> Examples:
    return Examples(X.astype(np.float32), Y)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 3))


TASK = Task(
    name="toy",
    model=network,
    loss=nn.functional.cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(5,),
)


def loaded(engine: str) -> TrainingModel:
    mask = Mask({"0.weight": MASK})
    if engine == "program":
        if reason := unavailable_reason():
            pytest.skip(reason)
        few = X.astype(np.float32), Y
        model: TrainingModel = on_program(network(), mask, *few)
    else:
        model = masked_model(network(), mask)
    model.load(
        {"0.weight": W[MASK].astype(np.float32)}, {"0.bias": B.astype(np.float32)}
    )
    return model


def slope(w: Array, b: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
    """The gradient of the mean cross-entropy, by hand."""
    logits = X[index] @ w.T + b
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(index)), Y[index]] -= 1
    share /= len(index)
    return share.T @ X[index] * MASK, share.sum(0)


@engines
@pytest.mark.parametrize(("mu", "clip"), [(0.7, 0.0), (3.0, 0.0), (0.7, 0.2)])
def test_fedprox_walks_as_published(engine: str, mu: float, clip: float) -> None:
    plan = Training(epochs=3, batch_size=8, learning_rate=0.2, momentum=0.5, seed=3)
    if clip:
        plan = Training(3, 8, 0.2, 0.5, seed=3, clip=clip)
    model = loaded(engine)
    train(model, TASK, examples(), plan, correct=partial(proximal, mu))
    w, b = W.copy(), B.copy()
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for _, index in batches(24, plan):
        gw, gb = slope(w, b, index)
        gw, gb = gw + mu * (w - W), gb + mu * (b - B)
        size = float(np.sqrt((gw**2).sum() + (gb**2).sum()))
        cut = min(1.0, clip / size) if clip else 1.0
        vw, vb = 0.5 * vw + cut * gw, 0.5 * vb + cut * gb
        w, b = w - 0.2 * vw, b - 0.2 * vb
    np.testing.assert_allclose(
        model.values()["0.weight"], w[MASK], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(model.dense()["0.bias"], b, rtol=1e-4, atol=1e-5)


@engines
def test_the_stronger_the_pull_the_nearer_to_the_base(engine: str) -> None:
    plan = Training(epochs=4, batch_size=8, learning_rate=0.1)
    far = []
    for mu in (1e-9, 0.5, 5.0):
        model = loaded(engine)
        train(model, TASK, examples(), plan, correct=partial(proximal, mu))
        far.append(float(np.abs(model.values()["0.weight"] - W[MASK]).sum()))
    assert far == sorted(far, reverse=True)
    assert far[2] < 0.5 * far[0]


def test_fedprox_stands_on_frozen_masks_and_takes_a_pull_above_0() -> None:
    on = coordinator.flash_scaled()
    algorithm = coordinator.fedprox(mu=0.3, on=on)
    assert check_algorithm(algorithm).local(RoundContext(1, 2, 0.1)) == Proximal(mu=0.3)
    assert algorithm.plan is on.plan
    both = coordinator.fedadam(on=coordinator.fedprox())
    assert both.local(RoundContext(1, 2, 0.1)) == Proximal(mu=0.01)
    with pytest.raises(SettingsError, match="fedprox on feddst: its devices train by"):
        coordinator.fedprox(on=coordinator.feddst())
    with pytest.raises(SettingsError, match="mu is 0"):
        coordinator.fedprox(mu=0)
