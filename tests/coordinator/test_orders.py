from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from coordinator.algorithms import ALGORITHMS
from coordinator.rounds.blobs import OrderBlobs
from coordinator.rounds.tasks import (
    mask_seed,
    order_for,
    task_id,
    warm_up_cohort,
    warm_up_counts,
)
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from edge_sdk.sparse import LayerShape
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import MaskRecipe, TaskOrder
from edge_sdk.wire.rules import Frozen, WarmUp

SETTINGS = RunSettings(
    federation="demo",
    task="digits",
    evaluation=Path("eval"),
    densities=[0.1, 0.05],
    rounds=10,
    training=TrainingSettings(epochs=2, max_steps=7, rate=0.1, rate_end=0.001),
    warm_up=WarmUpSettings(epochs=5, max_steps=50),
)


def an_order(
    round_no: int,
    algorithm: str = "hetero-flash",
    device: str = "pi-1",
    epoch: int = 3,
    steps: int = 0,
    settings: RunSettings = SETTINGS,
    place: int | None = None,
) -> TaskOrder:
    return order_for(
        device,
        OrderBlobs(manifest_of(b"base"), MaskRecipe(1, {"fc": 2}, bytes(32))),
        epoch=epoch,
        round_no=round_no,
        place=round_no if place is None else place,
        density=0.1,
        algorithm=ALGORITHMS[algorithm],
        settings=settings,
        batch_size=16,
        ttl_s=12.5,
        steps=steps,
    )


def test_an_order_of_a_round_says_what_the_settings_say() -> None:
    order = an_order(10)
    assert order.rule == Frozen()
    assert (order.training.epochs, order.training.max_steps) == (2, 7)
    assert order.training.batch_size == 16  # the task's own, as the run names none
    assert order.training.learning_rate == pytest.approx(0.001)
    assert order.ttl_ms == 12_500
    assert unpack(pack(order), TaskOrder) == order


def test_a_round_trains_as_its_place_says_however_many_were_aborted() -> None:
    """The tenth that gives a model has number 14 where four were aborted."""
    ask = partial(an_order, algorithm="feddst")
    for place in (1, 5, 10):
        plain, late = ask(place), ask(place + 4, place=place)
        assert late.round_no == place + 4
        assert late.training.learning_rate == plain.training.learning_rate
        assert late.rule == plain.rule


def test_a_power_and_a_bound_are_asked_of_frozen_masks_and_never_of_a_warm_up() -> None:
    training = structs.replace(SETTINGS.training, power=1.5, clip=10.0)
    asked = partial(an_order, settings=structs.replace(SETTINGS, training=training))
    for algorithm, no, power, clip in (
        ("flash", 4, 1.5, 10.0),
        ("flash", 0, UNSET, UNSET),
        ("flash-lottery", 0, UNSET, UNSET),
        ("salientgrads-steps", 4, 1.5, 10.0),
        ("nst", 4, UNSET, 10.0),
    ):
        plan = asked(no, algorithm).training
        assert (plan.power, plan.clip) == (power, clip)
    assert an_order(4).training.power is UNSET


def test_a_round_that_recalibrates_is_of_the_own_network_and_moves_nothing() -> None:
    training = structs.replace(SETTINGS.training, recalibrate=2)
    asked = partial(an_order, settings=structs.replace(SETTINGS, training=training))
    for algorithm in ("flash", "flash-edge", "fjord", "fedprox"):
        for no in (9, 10):
            order = asked(no, algorithm)
            assert (order.rule, order.training.learning_rate) == (Frozen(), 0.0)
            assert unpack(pack(order), TaskOrder) == order
    assert asked(8).training.learning_rate == pytest.approx(0.001)
    assert asked(0).training.learning_rate == pytest.approx(0.1)


@pytest.mark.parametrize("algorithm", ["flash", "flash-edge", "salientgrads"])
def test_momentum_is_asked_of_rounds_and_never_of_a_warm_up(algorithm: str) -> None:
    settings = structs.replace(SETTINGS, training=TrainingSettings(momentum=0.9))
    asked = [an_order(no, algorithm, settings=settings) for no in (0, 1)]
    assert [order.training.momentum for order in asked] == [0, 0.9]


def test_round_zero_is_the_warm_up_where_the_algorithm_wants_evidence() -> None:
    order = an_order(0)
    assert order.rule == WarmUp(prune_rate=0.25)
    assert (order.training.epochs, order.training.max_steps) == (5, 50)
    assert order.training.learning_rate == pytest.approx(0.1)
    assert an_order(0, "erk").rule == Frozen()


def test_a_device_that_the_pace_cuts_short_is_asked_for_the_steps_that_fit() -> None:
    whole, part = an_order(3), an_order(3, steps=2)
    assert (whole.training.max_steps, part.training.max_steps) == (7, 2)
    assert (part.density, part.mask, part.base) == (
        whole.density,
        whole.mask,
        whole.base,
    )


def test_orders_replay_and_differ_by_device_and_round() -> None:
    assert an_order(3) == an_order(3)
    seeds = {
        an_order(no, device=device).training.seed
        for no in range(5)
        for device in ("pi-1", "pi-2", "pi-3")
    }
    assert len(seeds) == 15
    assert an_order(3, epoch=4).training.seed == an_order(3).training.seed


@given(st.sets(st.tuples(*[st.integers(0, 99)] * 2, st.from_regex(r"[a-z]{2,5}\Z"))))
def test_task_ids_are_single_use(keys: set[tuple[int, int, str]]) -> None:
    ids = {task_id(*key) for key in keys}
    assert len(ids) == len(keys)
    assert all(0 < len(i) <= 64 for i in ids)


def test_masks_of_warm_up_and_training_have_other_seeds() -> None:
    seeds = [mask_seed(s, warm_up=w) for s in range(50) for w in (False, True)]
    assert len(set(seeds)) == 100


def test_the_warm_up_is_uniform_at_the_top_density() -> None:
    layers = [LayerShape("a", (10, 100)), LayerShape("b", (10, 50))]
    assert warm_up_counts(layers, [0.1, 0.4]) == {0.4: {"a": 400, "b": 200}}


afford = st.dictionaries(
    st.from_regex(r"[a-z]{2,4}\Z"), st.sampled_from([0.05, 0.1, 0.5]), max_size=9
)


@given(st.integers(0, 9), afford, st.integers(0, 12))
def test_the_strongest_warm_up(seed: int, able: dict[str, float], count: int) -> None:
    cohort = warm_up_cohort(seed, able, count)
    assert len(set(cohort)) == len(cohort) == min(count, len(able))
    out = set(able) - set(cohort)
    if cohort and out:
        assert min(able[d] for d in cohort) >= max(able[d] for d in out)
