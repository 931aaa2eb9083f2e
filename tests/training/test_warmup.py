from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.evidence import LayerSensitivity
from edge_sdk.errors import DataError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.local import Stopped
from edge_sdk.training.rules.gradients import Scorer, saliency
from edge_sdk.training.rules.warm_up import (
    _spill_evenly,
    measure_sensitivity,
    rewire,
)
from edge_sdk.training.torch_engine.dense import DenseModel
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import WarmUp

Layers = dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]


@st.composite
def stacks(draw: st.DrawFn) -> Layers:
    """Weights under patterns: empty, full, and anything between."""
    found = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))
        share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
        seed = draw(st.integers(0, 99))
        rng = np.random.default_rng(seed)
        pattern = rng.random(shape) < share
        scale = draw(st.sampled_from([0.0, 1e-30, 1.0, 1e30, 3e38]))
        weight = (rng.normal(size=shape).clip(-1, 1) * scale * pattern).astype("f4")
        found[name] = (weight, pattern)
    return found


@given(stacks(), st.floats(0.0, 1.0), st.integers(0, 99))
def test_rewiring_keeps_the_total_whatever_the_layers(
    layers: Layers, rate: float, seed: int
) -> None:
    weights = {n: w for n, (w, _) in layers.items()}
    patterns = {n: p for n, (_, p) in layers.items()}
    before = {n: p.copy() for n, p in patterns.items()}
    after = rewire(weights, patterns, rate, np.random.default_rng(seed))
    assert sum(p.sum() for p in after.values()) == sum(p.sum() for p in before.values())
    for name, pattern in after.items():
        assert pattern.shape == before[name].shape
        assert pattern.dtype == np.bool_
        np.testing.assert_array_equal(patterns[name], before[name])  # not in place


def test_the_smallest_magnitudes_go_and_important_layers_grow() -> None:
    rng = np.random.default_rng(1)
    patterns = {n: np.zeros((10, 40), bool) for n in ("strong", "weak")}
    for pattern in patterns.values():
        pattern[:, :10] = True
    weights = {
        n: (s * rng.normal(size=(10, 40)) * patterns[n]).astype(np.float32)
        for n, s in (("strong", 10.0), ("weak", 0.1))
    }
    after = rewire(weights, patterns, 0.3, rng)
    assert after["strong"].sum() > 100 > after["weak"].sum()
    for name, pattern in after.items():
        size = np.abs(weights[name])
        gone = patterns[name] & ~pattern
        stayed = patterns[name] & pattern
        # A pruned place may be drawn again, so compare only what did go.
        assert size[gone].max() <= np.sort(size[stayed])[::-1][:70].min()


def test_no_rate_no_change() -> None:
    pattern = np.eye(4, dtype=bool)
    after = rewire({"a": np.eye(4, dtype="f4")}, {"a": pattern}, 0.0, _rng())
    np.testing.assert_array_equal(after["a"], pattern)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_have_diverged_do_not_hang_it(value: float) -> None:
    pattern = np.ones((4, 4), bool)
    pattern[0] = False
    weights = {"a": np.where(pattern, value, 0).astype("f4"), "b": pattern.astype("f4")}
    after = rewire(weights, {"a": pattern, "b": pattern}, 0.5, _rng())
    assert sum(p.sum() for p in after.values()) == 24


def test_of_equally_small_weights_no_position_goes_first() -> None:
    pattern = np.ones((40, 50), bool)
    after = rewire({"a": np.zeros((40, 50), "f4")}, {"a": pattern}, 0.25, _rng())["a"]
    assert after.sum() == 2000  # full: what is pruned grows again
    half = np.random.default_rng(5).random((40, 50)) < 0.5
    after = rewire({"a": np.zeros((40, 50), "f4")}, {"a": half}, 0.25, _rng())["a"]
    gone = np.flatnonzero(half & ~after)
    assert np.bincount(gone * 4 // half.size, minlength=4).min() > len(gone) / 6


@given(st.integers(0, 999), st.integers(1, 400))
def test_the_released_spill_over_is_shared_evenly(seed: int, budget: int) -> None:
    """Against a walk in single weights, whose rounding may differ by one a layer."""
    rng = np.random.default_rng(seed)
    room = rng.integers(1, 300, size=5)
    budget = min(budget, int(room.sum()))
    share = rng.dirichlet(np.ones(5))
    grow = _spill_evenly(budget, share, room)
    assert grow.sum() == budget
    assert (grow >= 0).all()
    assert (grow <= room).all()
    cap = 0.99 * room
    if np.floor(cap).sum() < budget:
        return
    want, over = np.zeros(5), share * budget
    for _ in range(100_000):  # the released loop, in real numbers
        want = want + over
        left = np.maximum(want - cap, 0).sum()
        want, over = np.minimum(want, cap), np.full(5, left / 5)
        if left < 1e-9:
            break
    assert np.abs(grow - want).max() <= 2


def test_a_preset_that_says_released_asks_for_the_released_spill_over() -> None:
    for name in ("flash-released", "hetero-flash-released"):
        assert ALGORITHMS[name].evidence == LayerSensitivity(spill="even")
    assert ALGORITHMS["flash"].evidence == LayerSensitivity()
    assert pack(WarmUp(0.25)) == pack(WarmUp(0.25, UNSET))
    assert unpack(pack(WarmUp(0.25, "even")), WarmUp).spill == "even"


@pytest.mark.parametrize("method", ["warm-up", "score"])
def test_what_is_measured_is_augmented_as_in_training(method: str) -> None:
    seen: list[int] = []

    def jitter(inputs: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        seen.append(len(inputs))
        return inputs + torch.randn(inputs.shape, generator=noise)

    def found(task: Task, seed: int) -> object:
        plan = Training(4, 5, 0.3, seed=seed)
        model = task.model()
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.1)
        if method == "score":
            scorer = Scorer(task, examples())
            scores, _ = saliency(DenseModel(model, MASK), MASK, scorer, plan, count=3)
            return {n: s.tolist() for n, s in scores.items()}
        torch.manual_seed(0)
        _, outcome = measure_sensitivity(
            DenseModel(model, MASK), MASK, task, examples(), WarmUp(), plan
        )
        return outcome.loss

    plain, noisy = a_task(), replace(a_task(), augment=jitter)
    assert found(noisy, 3) == found(noisy, 3) != found(plain, 3)
    assert len(seen) == (2 * 16 if method == "warm-up" else 2 * 3)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


MASK = Mask(
    {"0.weight": np.tri(6, 4, dtype=bool), "2.weight": np.eye(3, 6, dtype=bool)}
)


def a_task(rate_of_loss: float = 1.0) -> Task:
    return Task(
        name="toy",
        model=lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        loss=lambda out, y: rate_of_loss * nn.functional.cross_entropy(out, y),
        train_data=lambda _: examples(),
        eval_data=lambda _: examples(),
        input_shape=(4,),
    )


def examples() -> Examples:
    inputs = _rng().normal(size=(20, 4)).astype(np.float32)
    return Examples(inputs, np.arange(20) % 3)


def measured(**plan: float) -> tuple[dict[str, int], int]:
    training = {"epochs": 4, "batch_size": 5, "learning_rate": 0.1, "seed": 3} | plan
    task = a_task()
    counts, outcome = measure_sensitivity(
        DenseModel(task.model(), MASK),
        MASK,
        task,
        examples(),
        WarmUp(),
        Training(**training),  # type: ignore[arg-type]
    )
    return counts, outcome.steps


def test_evidence_counts_every_layer_and_keeps_the_total() -> None:
    counts, steps = measured()
    assert set(counts) == set(MASK)
    assert sum(counts.values()) == MASK.nnz
    assert steps == 16


@pytest.mark.parametrize("most", [1, 3, 7, 10, 16, 999])
def test_max_steps_bounds_all_epochs_together(most: int) -> None:
    counts, steps = measured(max_steps=most)
    assert steps == min(most, 16)
    assert sum(counts.values()) == MASK.nnz


def test_one_epoch_rewires_nothing() -> None:
    """Pruning comes after every epoch but the last."""
    assert measured(epochs=1)[0] == dict(MASK.counts)


def test_off_mask_weights_stay_zero_during_the_warm_up() -> None:
    task = a_task()
    model = task.model()
    plan = Training(epochs=3, batch_size=5, learning_rate=0.1)
    counts, _ = measure_sensitivity(
        DenseModel(model, MASK), MASK, task, examples(), WarmUp(), plan
    )
    for name, weight in model.named_parameters():
        if name in counts:
            assert np.count_nonzero(weight.detach().numpy()) <= counts[name]


def test_it_stops_and_refuses_what_diverged() -> None:
    plan = Training(epochs=2, batch_size=5, learning_rate=0.1)
    task = a_task(float("nan"))
    args = (examples(), WarmUp(), plan)
    with pytest.raises(Stopped):
        measure_sensitivity(
            DenseModel(task.model(), MASK), MASK, task, *args, stop=lambda: True
        )
    with pytest.raises(DataError, match="not finite"):
        measure_sensitivity(DenseModel(task.model(), MASK), MASK, task, *args)
