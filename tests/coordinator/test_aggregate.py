from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from edge_sdk.errors import MaskMismatchError, RunError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.values import Values

LAYERS = (LayerShape("a", (4, 5)), LayerShape("b", (3, 2, 2)))
COUNTS = ({"a": 18, "b": 12}, {"a": 9, "b": 6}, {"a": 5, "b": 3})
TOP, MIDDLE, LOW = (draw(LAYERS, counts, 1) for counts in COUNTS)


def model(seed: int = 0, mask: Mask = TOP) -> Model:
    rng = np.random.default_rng(seed)
    return Model(
        mask,
        {n: rng.normal(size=mask.counts[n]).astype(np.float32) for n in mask},
        {"bias": rng.normal(size=3).astype(np.float32)},
    )


def update(device: str, mask: Mask, examples: int, seed: int) -> Contribution:
    change = model(seed, mask)
    return Contribution(
        device, mask, examples, Values(mask.digest, change.masked, change.dense)
    )


@st.composite
def cohorts(draw: st.DrawFn, masks: tuple[Mask, ...] = (TOP, MIDDLE, LOW)) -> Any:
    return [
        update(f"pi-{i}", draw(st.sampled_from(masks)), draw(st.integers(1, 999)), i)
        for i in range(draw(st.integers(1, 6)))
    ]


def dense_of(mask: Mask, values: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    full = np.zeros(mask[name].shape)
    full[mask[name]] = values[name]
    return full


@given(cohorts(masks=(TOP,)))
def test_under_full_masks_it_is_the_plain_weighted_mean(
    cohort: list[Contribution],
) -> None:
    base = model(99)
    after, coverage = coverage_mean(base, cohort)
    share = np.array([c.examples for c in cohort], np.float64)
    for name in TOP:
        changes = np.array([c.change.masked[name] for c in cohort], np.float64)
        wanted = base.masked[name] + np.average(changes, axis=0, weights=share)
        np.testing.assert_allclose(after.masked[name], wanted, rtol=1e-6, atol=1e-7)
        assert after.masked[name].dtype == np.float32
        assert np.all(coverage[name] == len(cohort))
    changes = np.array([c.change.dense["bias"] for c in cohort], np.float64)
    wanted = base.dense["bias"] + np.average(changes, axis=0, weights=share)
    np.testing.assert_allclose(after.dense["bias"], wanted, rtol=1e-6, atol=1e-7)


@given(cohorts())
def test_each_weight_is_averaged_over_those_who_held_it(
    cohort: list[Contribution],
) -> None:
    """Against a dense loop over every weight."""
    base = model(99)
    after, coverage = coverage_mean(base, cohort)
    for name in TOP:
        total = np.zeros(TOP[name].shape)
        weight = np.zeros(TOP[name].shape)
        held = np.zeros(TOP[name].shape, int)
        for one in cohort:
            change = dense_of(one.mask, dict(one.change.masked), name)
            total += one.examples * change
            weight += one.examples * one.mask[name]
            held += one.mask[name]
        mean = np.divide(total, weight, where=weight > 0, out=np.zeros_like(total))
        wanted = base.masked[name] + mean[TOP[name]]
        np.testing.assert_allclose(after.masked[name], wanted, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(coverage[name], held[TOP[name]])


@given(cohorts(masks=(MIDDLE, LOW)))
def test_a_weight_nobody_held_keeps_its_bits(cohort: list[Contribution]) -> None:
    base = model(99)
    after, coverage = coverage_mean(base, cohort)
    for name in TOP:
        alone = coverage[name] == 0
        assert alone.any()
        np.testing.assert_array_equal(
            after.masked[name][alone], base.masked[name][alone]
        )


@given(cohorts(), st.randoms(use_true_random=False))
def test_arrival_order_does_not_count_once_sorted(
    cohort: list[Contribution], rng: Any
) -> None:
    """The ledger sorts by device; unsorted sums agree to rounding."""
    shuffled = list(cohort)
    rng.shuffle(shuffled)
    base = model(99)
    one, _ = coverage_mean(base, cohort)
    two, _ = coverage_mean(base, sorted(shuffled, key=lambda c: c.device))
    loose, _ = coverage_mean(base, iter(shuffled))
    for name in TOP:
        assert one.masked[name].tobytes() == two.masked[name].tobytes()
        np.testing.assert_allclose(one.masked[name], loose.masked[name], rtol=1e-5)


@given(
    st.lists(
        st.lists(st.floats(-50, 50), min_size=2, max_size=8), min_size=1, max_size=5
    )
)
def test_batch_norm_variance_is_that_of_the_pooled_data(
    parts: list[list[float]],
) -> None:
    """E[var] + Var[mean], each device weighted by its examples."""
    base = Model(
        LOW,
        {n: np.zeros(LOW.counts[n], np.float32) for n in LOW},
        {
            "bn.running_mean": np.zeros(1, np.float32),
            "bn.running_var": np.ones(1, np.float32),
            "bn.num_batches_tracked": np.array(4, np.int64),
        },
    )
    cohort = [
        Contribution(
            f"pi-{i}",
            LOW,
            len(part),
            Values(
                LOW.digest,
                base.masked,
                {
                    "bn.running_mean": np.array([np.mean(part)]),
                    "bn.running_var": np.array([np.var(part) - 1]),
                    "bn.num_batches_tracked": np.array(i, np.int64),
                },
            ),
        )
        for i, part in enumerate(parts)
    ]
    after, _ = coverage_mean(base, cohort)
    pooled = np.concatenate([np.array(p) for p in parts])
    np.testing.assert_allclose(
        after.dense["bn.running_mean"], [pooled.mean()], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        after.dense["bn.running_var"], [pooled.var()], rtol=1e-4, atol=1e-4
    )
    assert after.dense["bn.running_var"].dtype == np.float32
    assert after.dense["bn.num_batches_tracked"].dtype == np.int64
    assert after.dense["bn.num_batches_tracked"].shape == ()


def test_a_running_mean_without_a_variance_is_an_entry_like_others() -> None:
    base = Model(LOW, model(1, LOW).masked, {"x.running_mean": np.zeros(2, np.float32)})
    change = Values(LOW.digest, base.masked, {"x.running_mean": np.ones(2)})
    after, _ = coverage_mean(base, [Contribution("pi", LOW, 3, change)])
    np.testing.assert_array_equal(after.dense["x.running_mean"], [1, 1])


def test_no_update_no_aggregate() -> None:
    with pytest.raises(RunError, match="without updates"):
        coverage_mean(model(), [])


def test_a_mask_that_is_not_nested_is_refused() -> None:
    stranger = draw(LAYERS, COUNTS[1], 2)
    with pytest.raises(MaskMismatchError):
        coverage_mean(model(), [update("pi", stranger, 1, 1)])


def test_the_base_is_not_written_to() -> None:
    base = model(5)
    before = {n: v.copy() for n, v in base.masked.items()}
    coverage_mean(base, [update("pi", MIDDLE, 1, 1)])
    for name, value in before.items():
        np.testing.assert_array_equal(base.masked[name], value)


def test_a_model_on_a_nested_mask_has_its_values() -> None:
    base = model(3)
    inner = base.on(LOW)
    assert inner.mask_digest == LOW.digest
    for name in LOW:
        full = dense_of(TOP, dict(base.masked), name)
        np.testing.assert_array_equal(inner.masked[name], full[LOW[name]])
    assert base.on(TOP).masked is base.masked


@given(cohorts())
def test_damping_by_coverage_is_the_mean_over_all_with_absent_changes_as_zero(
    cohort: list[Contribution],
) -> None:
    base = model(99)
    after, _ = coverage_mean(base, cohort, damping=1.0)
    everyone = sum(c.examples for c in cohort)
    for name in TOP:
        wanted = dense_of(TOP, dict(base.masked), name)
        for one in cohort:
            change = dense_of(one.mask, dict(one.change.masked), name)
            wanted = wanted + one.examples / everyone * change
        np.testing.assert_allclose(
            dense_of(TOP, dict(after.masked), name), wanted, atol=1e-5
        )
