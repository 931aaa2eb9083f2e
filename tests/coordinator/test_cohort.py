from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.rounds.cohort import choose, generator

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
