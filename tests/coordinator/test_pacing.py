from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rounds.deadlines import (
    GRACE_S,
    come_back_s,
    due_s,
    over_selected,
    round_deadline_s,
    shortened_deadline_s,
)
from coordinator.rounds.expected_time import (
    ExpectedTime,
    expect,
    observe,
    overdue,
    rested,
)
from coordinator.rounds.pace import GAP, LEAST_ROUND_S, pace
from coordinator.rounds.state import quorum_of
from device_profiles import LayerLoad, Workload, cost_of, load_board

STEPS = 290
FLEET = {f"pi-{n}": ExpectedTime(0.1, 0.01, STEPS) for n in range(9)}

expectations = st.builds(
    ExpectedTime,
    fixed_s=st.floats(0.0, 5.0),
    step_s=st.floats(1e-4, 2.0),
    steps=st.integers(1, 500),
    rounds=st.integers(0, 3),
)
fleets = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), expectations, min_size=1, max_size=12
)


def test_a_profile_alone_hurries_nobody_that_has_answered() -> None:
    """It says that it is a thousand times as fast; of two it would be the median."""
    known = ExpectedTime(0.1, 0.05, STEPS, rounds=2)
    boast = ExpectedTime(0.0, 1e-5, STEPS)
    for many in (1, 2, 3):
        boasts = {f"x{n}": boast for n in range(many)}
        honest = {f"pi-{n}": known for n in range(many)}
        found = pace({**honest, **boasts}, 60.0)
        assert {found.steps[d] for d in honest} == {STEPS}
        assert found.target_s == pytest.approx(known.seconds)
    few = pace({"pi": known, **{f"x{n}": boast for n in range(9)}}, 60.0)
    assert few.steps["pi"] < STEPS  # one of ten makes no pace


@given(fleets, st.floats(0.1, 60.0))
def test_nobody_is_asked_for_more_than_fits_the_pace(
    fleet: dict[str, ExpectedTime], budget_s: float
) -> None:
    found = pace(fleet, budget_s)
    assert set(found.steps) | set(found.resting) == set(fleet)
    assert not set(found.steps) & set(found.resting)
    assert found.target_s <= budget_s
    for device, steps in found.steps.items():
        one = fleet[device]
        assert 1 <= steps <= one.steps
        assert one.seconds_for(steps) <= found.target_s + 0.01 * one.step_s
        assert (device in found.why) == (steps < one.steps)


@given(fleets)
def test_the_faster_half_is_never_cut_by_the_others(
    fleet: dict[str, ExpectedTime],
) -> None:
    found = pace(fleet, 1e9)
    ordered = sorted(fleet.values(), key=lambda one: one.seconds)
    for one in ordered[: (len(ordered) + 1) // 2]:
        assert one.seconds <= found.target_s
    assert found.target_s in {LEAST_ROUND_S, *(one.seconds for one in ordered)}


def test_boards_of_one_catalogue_are_waited_for_in_full() -> None:
    usual = {"orin": 1.3, "pi-4": 4.2, "zero": 11.4}
    fleet = {name: ExpectedTime(0.0, s / STEPS, STEPS) for name, s in usual.items()}
    found = pace(fleet, 12.0)
    assert found.target_s == pytest.approx(11.4)
    assert set(found.steps.values()) == {STEPS}


# -- the straggler, in virtual time ----------------------------------------------------


class World:
    """Devices that take their true times; a coordinator that only knows what it saw."""

    def __init__(
        self, truth: Mapping[str, ExpectedTime], believed: Mapping[str, ExpectedTime]
    ) -> None:
        self.truth, self.known = dict(truth), dict(believed)
        self.rng = np.random.default_rng(7)
        self.counted: dict[str, list[int]] = {name: [] for name in truth}

    def round(self) -> float:
        """One round; returns its seconds."""
        found = pace(self.known, 60.0)
        quorum = quorum_of(len(found.steps))
        deadline = round_deadline_s(found.steps, self.known)
        arrivals = [
            (self.truth[d].seconds_for(s) * self.rng.uniform(0.95, 1.1), d)
            for d, s in found.steps.items()
        ]
        heapq.heapify(arrivals)
        waiting = dict(found.steps)
        now, close = 0.0, deadline
        while arrivals and arrivals[0][0] <= close:
            now, device = heapq.heappop(arrivals)
            del waiting[device]
            self._count(device, found.steps[device], now)
            if len(found.steps) - len(waiting) >= quorum:
                due = [due_s(self.known[d], s) for d, s in waiting.items()]
                close = min(close, shortened_deadline_s(now, due))
        if not waiting:
            return now
        for device in waiting:
            self.known[device] = overdue(
                self.known[device], steps=found.steps[device], elapsed_s=close
            )
        return close

    def _count(self, device: str, steps: int, now: float) -> None:
        self.counted[device].append(steps)
        training = now - self.truth[device].fixed_s
        self.known[device] = observe(
            self.known[device], training_s=training, steps=steps, total_s=now
        )


def tenfold(one: ExpectedTime) -> ExpectedTime:
    return replace(one, fixed_s=one.fixed_s, step_s=10 * one.step_s)


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "lying"])
@pytest.mark.parametrize("others", [2, 9])
def test_one_device_ten_times_slower_does_not_slow_the_fleet(
    honest: bool, others: int
) -> None:
    """Round time within 1.3 times the fleet without it, and it is counted every round.

    An honest one is paced from the first round. One whose profile lies costs its first
    round the grace of a start, is noticed, and is paced from then on.
    """
    usual = dict(list(FLEET.items())[:others])
    truth = {**usual, "slow": tenfold(FLEET["pi-0"])}
    believed = {**usual, "slow": truth["slow"] if honest else FLEET["pi-0"]}
    alone, mixed = World(usual, usual), World(truth, believed)
    without = [alone.round() for _ in range(20)]
    with_slow = [mixed.round() for _ in range(20)]
    settled = slice(0 if honest else 6, None)
    ratio = np.mean(with_slow[settled]) / np.mean(without[settled])
    assert ratio <= 1.3
    assert max(with_slow[settled]) <= 1.3 * max(without[settled])
    shares = mixed.counted["slow"]
    assert len(shares) >= (20 if honest else 15)
    # It does about a tenth of the work, at its own density, in every later round.
    assert 0.05 * STEPS <= np.median(shares) <= 0.15 * STEPS
    assert all(steps == STEPS for steps in mixed.counted["pi-0"])


def test_a_device_that_vanishes_costs_one_deadline_and_then_little() -> None:
    truth = {**FLEET, "gone": ExpectedTime(1e9, 1e9, STEPS)}
    world = World(truth, {**FLEET, "gone": FLEET["pi-0"]})
    times = [world.round() for _ in range(30)]
    assert max(times[1:]) < 3.0 + 2.0 + GRACE_S
    assert np.median(times[1:]) < 1.2 * 3.0
    assert not world.counted["gone"]


def test_a_device_whose_link_alone_takes_longer_rests_and_is_told_why() -> None:
    found = pace({**FLEET, "far": ExpectedTime(40.0, 0.01, STEPS)}, 12.0)
    assert found.resting == {
        "far": "one step takes 40.0 s with the link, the round 3.0 s"
    }


@given(fleets, st.floats(1.0, 100.0), st.data())
@settings(max_examples=30, deadline=None)
def test_whose_hours_end_soon_does_what_fits_before_and_others_what_they_did(
    fleet: dict[str, ExpectedTime], budget_s: float, data: st.DataObject
) -> None:
    one = data.draw(st.sampled_from(sorted(fleet)))
    left_s = data.draw(st.floats(0.0, 60.0))
    whole, found = pace(fleet, budget_s), pace(fleet, budget_s, (), {one: left_s})
    assert found.target_s == whole.target_s
    others = [device for device in fleet if device != one]
    assert [found.steps.get(d) for d in others] == [whole.steps.get(d) for d in others]
    steps = found.steps.get(one, 0)
    assert steps <= whole.steps.get(one, 0)
    assert not steps or fleet[one].seconds_for(steps) <= max(left_s, 0.01) + 0.01
    if steps < whole.steps.get(one, 0):
        assert "hours end" in {**found.why, **found.resting}[one]


def test_a_device_with_a_few_minutes_left_is_asked_for_fewer_steps() -> None:
    slow = ExpectedTime(1.0, 1.0, STEPS)
    found = pace(dict.fromkeys("abc", slow), 1e3, (), {"a": 100.0, "b": 0.0})
    assert (found.steps["a"], found.steps["c"]) == (79, STEPS)
    assert found.why["a"].endswith("and its owner's hours end in 100 s")
    assert found.resting["b"].endswith("its owner's hours end in 0 s")


# -- expectations ---


def test_a_prediction_splits_link_from_training() -> None:
    load = Workload(
        layers=(LayerLoad("w", 1_000_000, 1_000_000),),
        other_numel=0,
        activations=1_000,
        input_bytes=1,
        examples=640,
    )
    cost = cost_of(load_board("raspberry_pi_4b_4gb"), load, 0.1)
    one = expect(cost, load)
    assert one.steps == load.steps == 20
    assert one.seconds == pytest.approx(cost.seconds)
    assert one.step_s * 20 == pytest.approx(cost.training_seconds)


def test_observations_replace_a_prediction_and_then_blend() -> None:
    first = observe(FLEET["pi-0"], training_s=29.0, steps=STEPS, total_s=30.0)
    assert (first.step_s, first.fixed_s, first.rounds) == (0.1, 1.0, 1)
    slower = observe(first, training_s=58.0, steps=STEPS, total_s=59.0)
    assert (slower.step_s, slower.rounds) == (pytest.approx(0.15), 2)
    faster = observe(first, training_s=14.5, steps=STEPS, total_s=15.5)
    assert faster.step_s == pytest.approx(0.05)


def test_a_device_cannot_claim_to_have_trained_longer_than_it_was_gone() -> None:
    seen = observe(FLEET["pi-0"], training_s=1e6, steps=10, total_s=5.0)
    assert seen.step_s == 0.5
    assert seen.fixed_s == 0.0
    assert observe(FLEET["pi-0"], training_s=-1.0, steps=0, total_s=5.0).step_s == 0.0


def test_silence_doubles_what_a_device_is_taken_to_need() -> None:
    one = FLEET["pi-0"]
    after = overdue(one, steps=STEPS, elapsed_s=6.0)
    assert after.step_s == pytest.approx(one.step_s * 12.0 / 3.0)
    assert overdue(one, steps=STEPS, elapsed_s=0.5) == one


@given(expectations, st.floats(0.0, 1e4), st.integers(1, 500))
def test_silence_never_makes_a_device_look_faster(
    one: ExpectedTime, elapsed_s: float, steps: int
) -> None:
    assert overdue(one, steps=steps, elapsed_s=elapsed_s).step_s >= one.step_s


@given(expectations, expectations)
def test_resting_goes_back_towards_the_profile_and_never_beyond(
    one: ExpectedTime, told: ExpectedTime
) -> None:
    after = one
    for _ in range(40):
        before, after = after, rested(after, told)
        assert after.fixed_s <= before.fixed_s
        assert after.step_s <= before.step_s
    assert after.step_s == pytest.approx(min(one.step_s, told.step_s), abs=1e-9)


def test_a_device_that_silence_sent_to_rest_is_asked_again_within_some_rounds() -> None:
    usual, silent = FLEET["pi-0"], replace(FLEET["pi-0"], step_s=1e3, rounds=5)
    rounds = 0
    while "pi-0" not in pace({**FLEET, "pi-0": silent}, 12.0).steps:
        silent, rounds = rested(silent, usual), rounds + 1
    assert 0 < rounds <= 12


# -- deadlines, over-selection, pace steering ---


@given(fleets, st.floats(0.1, 60.0))
def test_a_deadline_leaves_every_device_more_than_it_should_need(
    fleet: dict[str, ExpectedTime], budget_s: float
) -> None:
    found = pace(fleet, budget_s)
    deadline = round_deadline_s(found.steps, fleet)
    due = [due_s(fleet[device], steps) for device, steps in found.steps.items()]
    assert shortened_deadline_s(0.0, due) <= deadline
    for device, steps in found.steps.items():
        assert deadline > 1.4 * fleet[device].seconds_for(steps)


def test_what_was_observed_is_trusted_more_than_a_prediction() -> None:
    seen = {name: replace(one, rounds=2) for name, one in FLEET.items()}
    told, known = (
        round_deadline_s(pace(fleet, 12.0).steps, fleet) for fleet in (FLEET, seen)
    )
    assert (told, known) == (pytest.approx(49.0), pytest.approx(14.5))


@given(
    st.integers(1, 200), st.integers(1, 400), st.integers(0, 500), st.floats(0.0, 1.0)
)
def test_over_selection_asks_at_least_the_goal_and_at_most_who_is_here(
    goal: int, present: int, asked: int, share: float
) -> None:
    count = over_selected(goal, present, asked=asked, answered=int(share * asked))
    assert min(goal, present) <= count <= min(present, max(goal, 2 * goal))


def test_a_reliable_fleet_is_asked_for_less_and_a_shaky_one_for_more() -> None:
    assert over_selected(10, 100) == 13
    assert over_selected(10, 100, asked=1000, answered=1000) == 11
    assert over_selected(10, 100, asked=100, answered=60) == 17


def test_a_fleet_comes_back_spread_out_and_after_the_round() -> None:
    times = [
        come_back_s(f"d-{n}", left_s=8.0, devices=2_000, salt="7") for n in range(2_000)
    ]
    assert min(times) >= 8.0
    assert max(times) <= 8.0 + 2_000 / 200.0
    busiest = np.bincount(np.array(times, int)).max()
    assert busiest <= 260  # 200 a second on average
    assert come_back_s("d-1", left_s=8.0, devices=2_000, salt="8") != times[1]


def test_the_gap_is_wider_than_boards_of_the_catalogue_differ() -> None:
    """Zero 2 W, 3B+, 4B, 5: each step is below it."""
    rates = sorted(
        load_board(name).train_gflops
        for name in (
            "raspberry_pi_zero_2_w",
            "raspberry_pi_3b_plus",
            "raspberry_pi_4b_4gb",
            "raspberry_pi_5_4gb",
        )
    )
    steps = [b / a for a, b in pairwise(rates)]
    assert max(steps) < GAP
