from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rounds.cohort import Candidate, choose, choose_fairly, generator

names = st.lists(st.from_regex(r"[a-z]{2,5}", fullmatch=True), max_size=12)


@given(st.integers(0, 2**31), st.integers(0, 9999), names, st.integers(0, 20))
def test_a_cohort_is_a_set_of_those_present_whatever_their_order(
    seed: int, round_no: int, present: list[str], count: int
) -> None:
    cohort = choose(seed, round_no, present, count)
    assert len(cohort) == min(count, len(set(present)))
    assert set(cohort) <= set(present)
    assert list(cohort) == sorted(set(cohort))
    assert cohort == choose(seed, round_no, reversed(present), count)


def test_rounds_and_seeds_draw_differently_and_everybody_in_time() -> None:
    fleet = [f"pi-{i:02}" for i in range(20)]
    drawn = [choose(1, no, fleet, 5) for no in range(40)]
    assert len(set(drawn)) > 30
    assert {d for cohort in drawn for d in cohort} == set(fleet)
    assert drawn != [choose(2, no, fleet, 5) for no in range(40)]


def test_a_round_replays_without_the_ones_before() -> None:
    assert generator(1, 57, 1).integers(1 << 60) == generator(1, 57, 1).integers(
        1 << 60
    )
    streams = {
        int(generator(1, no, purpose).integers(1 << 60))
        for no in range(9)
        for purpose in range(9)
    }
    assert len(streams) == 81


@given(
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sets(st.integers(0, 11), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_nobody_who_answers_is_missed_for_longer_than_a_turn(
    seed: int, devices: int, count: int, slow: set[int]
) -> None:
    """Those that are slow answer, too, and are waited for: nothing else decides."""
    fleet = [f"pi-{i}" for i in range(devices)]
    counted = dict.fromkeys(fleet, 0)
    turn = -(-devices // min(count, devices))
    for no in range(1, 4 * turn + 1):
        known = [
            Candidate(d, counted[d], 60.0 if i in slow else math.inf, 100 - 7 * i)
            for i, d in enumerate(fleet)
        ]
        cohort = choose_fairly(seed, no, known, count)
        assert cohort == choose_fairly(seed, no, reversed(known), count)
        assert len(set(cohort)) == min(count, devices)
        counted.update(dict.fromkeys(cohort, no))
        assert all(no - counted[d] < turn or not counted[d] for d in fleet)
    assert all(counted.values())


@given(st.integers(0, 2**31), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_who_was_asked_and_did_not_count_is_asked_again_first(
    seed: int, late: int
) -> None:
    fleet = [f"pi-{i}" for i in range(10)]
    known = [Candidate(d, 0 if i < late else 7) for i, d in enumerate(fleet)]
    assert set(choose_fairly(seed, 9, known, late)) == set(fleet[:late])


def test_among_equals_who_is_gone_sooner_and_then_who_has_more_battery() -> None:
    mains, full = Candidate("mains", 3), Candidate("full", 3, battery=95)
    low, soon = Candidate("low", 3, battery=20), Candidate("soon", 3, 900.0, 20)
    newest = Candidate("newest", 4, 60.0)
    known = [newest, low, full, mains, soon]
    for count, expected in enumerate(
        ({"soon"}, {"soon", "mains"}, {"soon", "mains", "full"}), 1
    ):
        assert set(choose_fairly(1, 5, known, count)) == expected
    assert "newest" not in choose_fairly(1, 5, known, 4)
    several = [Candidate(f"pi-{i}") for i in range(9)]
    assert len({choose_fairly(1, no, several, 2) for no in range(20)}) > 5
