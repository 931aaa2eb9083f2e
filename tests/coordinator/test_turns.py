"""Cohorts by turns: who is seldom here is asked when it is, and nobody is left out."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rounds.cohort import Candidate, choose
from coordinator.rounds.selection import draft_round

if TYPE_CHECKING:
    from coordinator.settings import RunSettings

FLEET = [f"pi-{n:02d}" for n in range(12)]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(1, 12),
    here=st.sets(st.sampled_from(FLEET), min_size=1),
)
def test_without_turns_the_draw_is_as_it_always_was(
    seed: int, count: int, here: set[str]
) -> None:
    names = sorted(here)
    key = np.random.Philox(key=[seed, (7 << 8) | 1])
    drawn = np.random.Generator(key).permutation(len(names))[:count]
    assert choose(seed, 7, here, count) == tuple(names[i] for i in sorted(drawn))


def test_everybody_has_a_turn_before_anybody_has_two() -> None:
    asked: dict[str, int] = {}
    for no in range(1, 10):
        cohort = choose(3, no, FLEET, 4, asked)
        assert len(cohort) == 4
        asked |= dict.fromkeys(cohort, no)
        if no % 3 == 0:
            assert {asked[name] for name in FLEET} == {no - 2, no - 1, no}


def seldom(*, turns: bool) -> Counter[str]:
    """Rounds of each device where some are here one night in four."""
    asked: dict[str, int] = {}
    counted: Counter[str] = Counter()
    for no in range(1, 201):
        here = FLEET if no % 4 == 0 else FLEET[6:]
        cohort = choose(5, no, here, 3, asked if turns else {})
        counted.update(cohort)
        asked |= dict.fromkeys(cohort, no)
    return counted


def test_a_device_that_is_seldom_here_is_asked_when_it_is() -> None:
    by_chance, by_turns = seldom(turns=False), seldom(turns=True)
    nights = 50
    assert min(by_turns[name] for name in FLEET[:6]) >= 3 * nights // 6 - 1
    rare = [sum(found[n] for n in FLEET[:6]) for found in (by_turns, by_chance)]
    assert rare[0] >= 1.5 * rare[1]
    assert min(by_turns.values()) > min(by_chance.values())


def test_a_device_that_joins_late_has_one_turn_at_once_and_then_its_share() -> None:
    asked = dict.fromkeys(FLEET, 100)
    cohort = choose(1, 101, [*FLEET, "new"], 2, asked)
    assert "new" in cohort
    asked |= dict.fromkeys(cohort, 101)
    assert "new" not in choose(1, 102, [*FLEET, "new"], 2, asked)


def test_a_fair_round_asks_no_more_than_it_waits_for() -> None:
    """Of more than are wanted the slow ones would come when the round is over."""
    wanted = SimpleNamespace(cohort=3, warm_up=SimpleNamespace(devices=3), seed=1)
    settings = cast("RunSettings", wanted)
    able = dict.fromkeys(FLEET, 0.2)
    known = {d: Candidate(d, counted=no) for no, d in enumerate(FLEET)}
    given: dict[str, Any] = {
        "settings": settings, "affordable": able, "masks": [0.2], "asked": 40,
        "answered": 20,
    }  # fmt: skip
    usual = draft_round(20, able, None, **given)
    fair = draft_round(20, able, None, **given, candidates=known)
    assert usual is not None
    assert fair is not None
    assert len(usual.cohort) > usual.goal == 3
    assert set(fair.cohort) == set(FLEET[:3])
    beside = draft_round(20, able, None, **given, candidates=known, beside=FLEET[:1])
    assert beside is not None
    assert beside.goal == 3
    assert set(beside.cohort) == set(FLEET[:4])
