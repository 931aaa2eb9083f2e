"""Norm statistics of each mask: those of the devices that train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.initial_weights import (
    grown_from_the_smallest,
    grown_unless_normed,
    scaled_by_fan_in,
)
from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from coordinator.checkpoints.models import ModelStore
from coordinator.rounds.model_check import impossible_model
from coordinator.rounds.round_step import mean_step
from coordinator.rounds.validation import impossible_change
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.values import Values

LAYERS = (LayerShape("a", (4, 5)), LayerShape("b", (3, 2, 2)))
COUNTS = {0.9: {"a": 18, "b": 12}, 0.5: {"a": 9, "b": 6}, 0.3: {"a": 5, "b": 3}}
FAMILY = MaskFamily.draw(LAYERS, COUNTS, 1)
TOP, MIDDLE, LOW = FAMILY.masks.values()
MEAN, VAR = "bn.running_mean", "bn.running_var"
COUNTER = "bn.num_batches_tracked"


def first_model() -> Model:
    values = {n: np.zeros(TOP.counts[n], np.float32) for n in TOP}
    dense = {
        "bias": np.zeros(3, np.float32),
        MEAN: np.zeros(2, np.float32),
        VAR: np.ones(2, np.float32),
        COUNTER: np.array(0, np.int64),
    }
    return Model(TOP, values, dense)


def update(base: Model, device: str, mask: Mask, examples: int, seed: int) -> Any:
    """A device's update, and the moments of what it saw."""
    rng = np.random.default_rng(seed)
    after = {MEAN: rng.normal(size=2), VAR: rng.uniform(0.1, 3, 2)}
    sent = base.sent(mask).dense
    change = {n: (a - sent[n]).astype(np.float32) for n, a in after.items()}
    change |= {"bias": rng.normal(size=3), COUNTER: np.array(4, np.int64)}
    kept = {n: rng.normal(size=mask.counts[n]).astype(np.float32) for n in mask}
    values = Values(mask.digest, kept, change)
    return Contribution(device, mask, examples, values), after


def moments(seen: list[tuple[int, dict[str, Any]]]) -> tuple[Any, Any]:
    """Of the mixture of what devices saw."""
    share = np.array([n for n, _ in seen], float)[:, None] / sum(n for n, _ in seen)
    means = np.array([a[MEAN] for _, a in seen])
    mean = (share * means).sum(0)
    squares = np.array([a[VAR] for _, a in seen]) + means**2
    return mean, (share * squares).sum(0) - mean**2


def aggregated(base: Model, cohort: list[Contribution]) -> Model:
    return coverage_mean(base, cohort, norms=True)[0]


@st.composite
def rounds(draw: st.DrawFn) -> list[list[tuple[Mask, int]]]:
    one = st.tuples(st.sampled_from((TOP, MIDDLE, LOW)), st.integers(1, 99))
    return draw(st.lists(st.lists(one, min_size=1, max_size=5), min_size=1, max_size=4))


@given(rounds())
def test_each_mask_has_the_moments_of_what_its_devices_saw_last(
    plan: list[list[tuple[Mask, int]]],
) -> None:
    model, last, seed = first_model(), {}, 0
    for cohort in plan:
        sent, seen = [], []
        for mask, examples in cohort:
            seed += 1
            one, after = update(model, f"pi-{seed}", mask, examples, seed)
            sent.append(one)
            seen.append((mask, examples, after))
        model = aggregated(model, sent)
        for mask in {m.digest: m for m, _, _ in seen}.values():
            last[mask.digest] = moments([s[1:] for s in seen if s[0] is mask])
        pooled = moments([s[1:] for s in seen])
        np.testing.assert_allclose(model.dense[MEAN], pooled[0], atol=1e-4)
        np.testing.assert_allclose(model.dense[VAR], pooled[1], atol=1e-4)
        assert not impossible_model(model)
    for mask in (TOP, MIDDLE, LOW):
        found = model.on(mask).dense
        if mask.digest in last:
            mean, var = last[mask.digest]
        else:  # nobody has ever trained it: the best there is
            mean, var = model.dense[MEAN], model.dense[VAR]
        np.testing.assert_allclose(found[MEAN], mean, atol=1e-4)
        np.testing.assert_allclose(found[VAR], var, atol=1e-4)
        assert found["bias"] is model.dense["bias"]  # what is no statistic is shared
        assert found[COUNTER] is model.dense[COUNTER]
        assert found[MEAN].dtype == found[VAR].dtype == np.float32


def test_a_fleet_of_one_mask_has_what_it_had() -> None:
    base = first_model()
    cohort = [update(base, f"pi-{i}", TOP, i + 1, i)[0] for i in range(4)]
    with_norms, plain = aggregated(base, cohort), coverage_mean(base, cohort)[0]
    for name, entry in plain.on(TOP).dense.items():
        assert entry.tobytes() == with_norms.on(TOP).dense[name].tobytes()


def test_a_model_without_norm_statistics_keeps_none() -> None:
    base = first_model()
    base = Model(TOP, base.masked, {"bias": base.dense["bias"]})
    cohort = []
    for at, mask in enumerate((TOP, LOW)):
        one, _ = update(first_model(), f"pi-{at}", mask, 3, at)
        dense = {"bias": one.change.dense["bias"]}
        values = Values(mask.digest, one.change.masked, dense)
        cohort.append(Contribution(one.device, mask, 3, values))
    assert not aggregated(base, cohort).norms


def mixed() -> Model:
    base = first_model()
    cohort = [update(base, f"pi-{i}", m, 3, i)[0] for i, m in enumerate((TOP, LOW))]
    return aggregated(base, cohort)


def test_a_checkpoint_has_them_and_is_scored_with_its_own(tmp_path: Path) -> None:
    model, store = mixed(), ModelStore(tmp_path, "toy", LAYERS)
    (tmp_path / "checkpoints").mkdir()
    store.save("round-00001.safetensors", model, 1)
    again = store.load("round-00001.safetensors")
    assert not again.state
    assert again.norms.keys() == model.norms.keys() != set()
    for mask in (TOP, MIDDLE, LOW):
        one, two = model.on(mask).dense, again.on(mask).dense
        assert {n: a.tobytes() for n, a in one.items()} == {
            n: a.tobytes() for n, a in two.items()
        }
    assert again.dense[MEAN].tobytes() == model.dense[MEAN].tobytes()
    written = load_checkpoint(tmp_path / "checkpoints/round-00001.safetensors")
    assert written.dense[VAR].tobytes() == model.on(TOP).dense[VAR].tobytes()
    assert written.dense[VAR].tobytes() != model.dense[VAR].tobytes()


def test_an_update_is_judged_from_what_its_device_was_sent() -> None:
    """A variance may fall by what the device's own was, not by what the pooled is."""
    model = mixed()
    sent = model.sent(LOW).dense
    down = {VAR: -sent[VAR]}
    assert not impossible_change(model.dense_sent(LOW), down, batches=9)
    below = {VAR: -sent[VAR] - np.float32(1)}
    assert "negative variance" in impossible_change(
        model.dense_sent(LOW), below, batches=9
    )


def test_what_a_round_is_checked_by_goes_on_from_them() -> None:
    """The plain mean that finds a spoilt round reckons from each device's own, too."""
    model = mixed()
    one, after = update(model, "pi-9", LOW, 5, 9)
    found = mean_step(model, FAMILY, [one])
    np.testing.assert_allclose(found.on(LOW).dense[MEAN], after[MEAN], atol=1e-5)
    assert found.on(TOP).dense[MEAN].tobytes() == model.on(TOP).dense[MEAN].tobytes()


@pytest.mark.parametrize("bad", [np.array([1, np.nan]), np.array([1, -1.0])])
def test_a_model_with_impossible_ones_is_refused(bad: Any) -> None:
    model = mixed()
    (digest,) = {d for d in model.norms if d == LOW.digest.hex()}
    wrong = {**model.norms, digest: {**model.norms[digest], VAR: bad}}
    said = impossible_model(Model(TOP, model.masked, model.dense, norms=wrong))
    assert VAR in said


def test_with_batch_norm_no_network_begins_as_the_smallest() -> None:
    state = {s.name: np.full(s.shape, 0.5, np.float32) for s in LAYERS}
    normed = state | {MEAN: np.zeros(2, np.float32), VAR: np.ones(2, np.float32)}
    pairs = (state, grown_from_the_smallest), (normed, scaled_by_fan_in)
    for given_, wanted in pairs:
        found, right = (f(FAMILY, given_, None) for f in (grown_unless_normed, wanted))
        for name in TOP:
            assert found.masked[name].tobytes() == right.masked[name].tobytes()
    assert draw(LAYERS, COUNTS[0.3], 1).digest == LOW.digest
    assert ALGORITHMS["flash-edge"].start is grown_unless_normed
