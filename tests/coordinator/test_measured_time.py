from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.rounds.deadlines import (
    FIRST_GRACE_S,
    GRACE_S,
    due_s,
    shortened_deadline_s,
)
from coordinator.rounds.expected_time import ExpectedTime
from coordinator.rounds.measured_time import TaskTimer

TOLD = ExpectedTime(fixed_s=1.0, step_s=0.1, steps=100)


class Clock:
    """Seconds that only the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> TaskTimer:
    made = TaskTimer(clock)
    made.expected("pi", TOLD)
    return made


def a_round(
    watch: TaskTimer, clock: Clock, seconds: float, training_s: float, steps: int = 100
) -> None:
    watch.start({"pi": steps})
    clock.now += seconds
    watch.took("pi", {"steps": float(steps), "training_s": training_s})


def test_what_was_seen_replaces_the_profile_until_there_is_a_new_one(
    watch: TaskTimer, clock: Clock
) -> None:
    a_round(watch, clock, 52.0, 50.0)
    seen = watch.expected("pi", TOLD)
    assert (seen.step_s, seen.fixed_s, seen.rounds) == (0.5, 2.0, 1)
    fresh = replace(TOLD, step_s=0.4)
    assert watch.expected("pi", fresh) == fresh


def test_a_lying_profile_is_told_after_two_rounds_in_words(
    watch: TaskTimer, clock: Clock
) -> None:
    """Observed five times slower than the profile says."""
    a_round(watch, clock, 52.0, 50.0)
    assert watch.drift("pi") is None
    a_round(watch, clock, 52.0, 50.0)
    found = watch.drift("pi")
    assert found is not None
    assert found.sentence == (
        "pi: training takes 5.0 times the 10.0 s of its profile; profile it again"
    )


def test_one_busy_round_is_no_lie(watch: TaskTimer, clock: Clock) -> None:
    for seconds in (10.0, 60.0, 10.0, 60.0):
        a_round(watch, clock, seconds + 2.0, seconds)
        assert watch.drift("pi") is None


def test_half_a_second_more_than_told_is_nobodys_lie(clock: Clock) -> None:
    watch = TaskTimer(clock)
    watch.expected("pi", replace(TOLD, step_s=0.001))
    for _ in range(3):
        a_round(watch, clock, 0.8, 0.6)
    assert watch.drift("pi") is None


def test_a_pause_that_was_announced_is_not_slowness(
    watch: TaskTimer, clock: Clock
) -> None:
    watch.start({"pi": 100})
    watch.pauses("pi", 30.0)
    clock.now += 41.0
    watch.took("pi", {"steps": 100.0, "training_s": 10.0})
    assert watch.expected("pi", TOLD).seconds == pytest.approx(11.0)


def test_who_is_silent_needs_longer_and_who_left_is_not_judged(
    watch: TaskTimer, clock: Clock
) -> None:
    watch.expected("gone", TOLD)
    watch.start({"pi": 100, "gone": 100})
    clock.now += 40.0
    watch.close({"pi"})
    assert watch.expected("pi", TOLD).seconds_for(100) > 70.0
    assert watch.expected("gone", TOLD) == TOLD


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, st.floats(0, 1e6))
def test_whatever_a_device_says_its_time_stays_a_time_that_comes(
    steps: float, training_s: float, seconds: float
) -> None:
    """The coordinator's clock decides; a claim only divides what it measured."""
    clock = Clock()
    watch = TaskTimer(clock)
    watch.expected("pi", TOLD)
    watch.start({"pi": 100})
    clock.now += seconds
    watch.took("pi", {"steps": steps, "training_s": training_s})
    seen = watch.expected("pi", TOLD)
    assert seen == TOLD or 0 <= seen.seconds_for(1) <= seconds + 1e-9
    watch.start({"pi": 100})
    assert 0 < watch.deadline_s() < 1e9


def test_a_round_that_teaches_nothing_is_closed_by_what_its_quorum_took(
    watch: TaskTimer, clock: Clock
) -> None:
    """The warm-up, and a round that a crash interrupted."""
    watch.start({})
    clock.now += 20.0
    assert watch.shortened_deadline_s() == 40.0 + FIRST_GRACE_S
    watch.took("pi", {"steps": 5.0, "training_s": 9.0})
    assert watch.expected("pi", TOLD) == TOLD


def test_an_answered_device_is_waited_for_no_more(
    watch: TaskTimer, clock: Clock
) -> None:
    watch.expected("quick", replace(TOLD, step_s=0.01, rounds=3))
    watch.start({"pi": 100, "quick": 100})
    assert watch.deadline_s() == pytest.approx(33.0 + GRACE_S + FIRST_GRACE_S)
    clock.now += 11.0
    watch.took("pi", {"steps": 100.0, "training_s": 10.0})
    assert watch.shortened_deadline_s() == pytest.approx(11.0 + GRACE_S)


fleets = st.dictionaries(
    st.sampled_from([f"pi-{n}" for n in range(8)]),
    st.tuples(
        st.builds(
            ExpectedTime,
            fixed_s=st.floats(0, 1e4),
            step_s=st.floats(0, 1e3),
            steps=st.integers(1, 300),
            rounds=st.integers(0, 3),
        ),
        st.integers(1, 300),
    ),
    min_size=1,
)


@given(fleets, st.data())
def test_the_deadline_after_the_quorum_is_that_of_the_last_who_is_waited_for(
    fleet: dict[str, tuple[ExpectedTime, int]], data: st.DataObject
) -> None:
    """In any order of answers and failures, asked after each of them."""
    clock = Clock()
    watch, began = TaskTimer(clock), clock.now
    for device, (own, _) in fleet.items():
        watch.expected(device, own)
    waiting = {device: steps for device, (_, steps) in fleet.items()}
    watch.start(waiting)
    order = data.draw(st.permutations(sorted(fleet)))
    last = math.inf
    for device in order:
        clock.now += data.draw(st.floats(0, 100))
        if data.draw(st.booleans()):
            watch.took(device, {"steps": 1.0, "training_s": 0.5})
        else:
            watch.failed(device)
        del waiting[device]
        elapsed, found = clock.now - began, watch.shortened_deadline_s()
        due = [due_s(fleet[d][0], steps) for d, steps in waiting.items()]
        assert found == shortened_deadline_s(elapsed, due)
        assert found >= elapsed + GRACE_S
        for name, steps in waiting.items():  # each has what it should need
            assert found >= fleet[name][0].seconds_for(steps) + GRACE_S
        assert found <= max(last, elapsed + GRACE_S)  # it only comes nearer
        last = found


def test_over_selection_follows_the_answers_of_late(
    watch: TaskTimer, clock: Clock
) -> None:
    for _ in range(20):
        a_round(watch, clock, 11.0, 10.0)
    assert watch.answered == pytest.approx(watch.asked, rel=1e-3)
    for _ in range(4):
        watch.start({"pi": 100})
        watch.failed("pi")
    assert watch.answered < 0.1 * watch.asked
