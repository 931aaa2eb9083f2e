"""Training that moves its mask: budgets, what moves when, and scores of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge_sdk.sparse import Mask, draw, exact_counts, regrow, uniform
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.local import Stopped
from edge_sdk.training.rules.gradients import Scorer, saliency
from edge_sdk.training.rules.moving_masks import train_moving
from edge_sdk.training.torch_engine.dense import DenseModel
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Regrow, Rewire

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
MASK = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, 0.2), 5)
PLAN = Training(epochs=1, batch_size=8, learning_rate=0.1, seed=3)


def scorer() -> Scorer:
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, 17, size=(40, 1, 8, 8)).astype(np.uint8)
    return Scorer(TASK, Examples(inputs, rng.integers(0, 10, size=40)))


def masked() -> nn.Module:
    model = make_model(TASK, 1)
    with torch.no_grad():
        for name in MASK:
            model.get_parameter(name).mul_(torch.from_numpy(np.array(MASK[name])))
    return model


def state(model: nn.Module) -> dict[str, np.ndarray]:
    return {n: p.detach().numpy().copy() for n, p in model.named_parameters()}


@pytest.mark.parametrize("rule", [Rewire(), Rewire(0.9), Regrow(0.3), Regrow(0.0)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_budget_holds_and_nothing_stands_off_the_mask(
    rule: Rewire | Regrow, epochs: int
) -> None:
    model, plan = masked(), Training(epochs, 8, 0.1, seed=3)
    after, outcome = train_moving(DenseModel(model, MASK), MASK, scorer(), rule, plan)
    assert after.nnz == MASK.nnz
    assert outcome.steps == 5 * epochs
    for name in after:
        assert not state(model)[name][~after[name]].any()
    if isinstance(rule, Regrow):
        assert after.counts == MASK.counts
    assert (after == MASK) == (rule == Regrow(0.0))


def test_equal_seeds_move_alike_and_others_do_not() -> None:
    def run(seed: int) -> tuple[Mask, bytes]:
        model, plan = masked(), Training(1, 8, 0.1, seed=seed)
        after, _ = train_moving(DenseModel(model, MASK), MASK, scorer(), Rewire(), plan)
        return after, state(model)["fc1.weight"].tobytes()

    assert run(3) == run(3)
    assert run(3)[0] != run(4)[0]


def test_the_only_epoch_moves_in_its_middle_and_what_grew_has_trained() -> None:
    model = masked()
    after, _ = train_moving(DenseModel(model, MASK), MASK, scorer(), Rewire(0.5), PLAN)
    grown = {n: after[n] & ~MASK[n] for n in after}
    assert any(state(model)[n][grown[n]].any() for n in grown)
    one_step = Training(1, 8, 0.1, max_steps=1, seed=3)
    still, _ = train_moving(
        DenseModel(masked(), MASK), MASK, scorer(), Rewire(0.5), one_step
    )
    assert still == MASK  # before the first step there is nothing to judge by


def test_momentum_does_not_carry_a_weight_off_the_mask() -> None:
    model = masked()
    plan = Training(3, 8, 0.1, momentum=0.9, weight_decay=1e-3, seed=3)
    after, _ = train_moving(DenseModel(model, MASK), MASK, scorer(), Rewire(), plan)
    for name in after:
        assert not state(model)[name][~after[name]].any()


@given(st.integers(0, 2**31), st.floats(0, 0.99), st.floats(0.05, 1.0))
def test_regrowth_takes_the_steepest_free_places_for_the_smallest_weights(
    seed: int, share: float, density: float
) -> None:
    rng = np.random.default_rng(seed)
    pattern = rng.random((6, 9)) < density
    weight = np.where(pattern, rng.normal(size=pattern.shape), 0).astype(np.float32)
    slope = rng.normal(size=pattern.shape).astype(np.float32)
    after = regrow({"w": weight}, {"w": slope}, {"w": pattern}, share, "a")["w"]
    assert after.sum() == pattern.sum()
    gone, grown = pattern & ~after, after & ~pattern
    kept = int(pattern.sum())
    assert gone.sum() == grown.sum() == min(int(share * kept), pattern.size - kept)
    if gone.any():
        stays = pattern & after
        if stays.any():
            assert abs(weight[gone]).max() <= abs(weight[stays]).min()
        still = ~pattern & ~after
        if still.any():
            assert abs(slope[grown]).min() >= abs(slope[still]).max()


def test_where_no_gradient_says_which_regrowth_prefers_no_position() -> None:
    """A dead unit's gradients are all 0, as those of inputs that are always 0."""
    rng = np.random.default_rng(3)
    pattern = rng.random((50, 100)) < 0.1
    weight = np.where(pattern, rng.normal(size=pattern.shape), 0).astype(np.float32)
    none = np.zeros_like(weight)
    after = regrow({"w": weight}, {"w": none}, {"w": pattern}, 0.5, "a")["w"]
    grown = np.flatnonzero(after & ~pattern)
    assert np.bincount(grown * 5 // pattern.size, minlength=5).min() > len(grown) / 8
    # Nor does pruning where weights have not moved from 0.
    kept = regrow({"w": none}, {"w": none}, {"w": pattern}, 0.5, "a")["w"]
    gone = np.flatnonzero(pattern & ~kept)
    assert np.bincount(gone * 5 // pattern.size, minlength=5).min() > len(gone) / 8
    other = regrow({"w": weight}, {"w": none}, {"w": pattern}, 0.5, "b")["w"]
    assert (other != after).any()


def test_saliency_is_weight_times_gradient_and_trains_nothing() -> None:
    full = Mask.full(LAYERS)
    model = make_model(TASK, 1)
    before = state(model)
    whole = Training(epochs=1, batch_size=40, learning_rate=0.1)
    scores, outcome = saliency(DenseModel(model, full), full, scorer(), whole, count=3)
    assert outcome.steps == 1  # no more batches than there are
    fresh = make_model(TASK, 1)
    examples = scorer().examples
    inputs = TASK.prepare(torch.from_numpy(np.array(examples.inputs)))
    TASK.loss(fresh(inputs), torch.from_numpy(np.array(examples.targets))).backward()
    for name in full:
        parameter = fresh.get_parameter(name)
        assert parameter.grad is not None
        expected = (parameter * parameter.grad).abs().detach().numpy()
        np.testing.assert_allclose(scores[name], expected.reshape(-1), atol=1e-6)
    for name, array in state(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_it_stops_when_told() -> None:
    with pytest.raises(Stopped):
        train_moving(
            DenseModel(masked(), MASK),
            MASK,
            scorer(),
            Rewire(),
            PLAN,
            stop=lambda: True,
        )
