"""Who makes it into a round, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.rounds.state import quorum_of
from coordinator.simulation.fleet import SimulatedDevice, SimulatedFleet, make_fleet
from coordinator.simulation.settings import FleetGroup, SimulationSettings
from device_profiles import LayerLoad, Workload
from edge_sdk.errors import RunError, SettingsError

WORK = Workload(
    layers=(LayerLoad("fc.weight", 100_000, 100_000),),
    other_numel=10,
    activations=1000,
    input_bytes=784,
    examples=1,
)
seconds = st.lists(st.floats(0.1, 500.0), min_size=4, max_size=12)


def fleet(
    times: list[float], jitter: float = 0.0, dropout: float = 0.0
) -> SimulatedFleet:
    devices = {
        f"d{i:02d}": SimulatedDevice(Path(), 10, 0.1, {0.1: s})
        for i, s in enumerate(times)
    }
    return SimulatedFleet(devices, jitter, dropout, 1)


def settings(**changes: object) -> SimulationSettings:
    base = {"task": "digits", "data": "digits", "densities": [0.05, 0.1], "cohort": 2}
    return SimulationSettings(**{**base, **changes})  # type: ignore[arg-type]


@given(seconds, st.integers(1, 4), st.floats(0, 0.5), st.integers(1, 50))
def test_the_fastest_are_in_and_the_round_ends_with_the_last_of_them(
    times: list[float], goal: int, jitter: float, no: int
) -> None:
    it = fleet(times, jitter)
    asked = dict.fromkeys(it.devices, 0.1)
    found = it.play(no, asked, goal)
    again = it.play(no, dict(reversed(asked.items())), goal)
    assert found == again  # the order of asking does not matter
    assert set(found.accepted) <= set(found.asked) == set(asked)
    if found.note:
        assert len(found.accepted) < quorum_of(goal)
        return
    assert quorum_of(goal) <= len(found.accepted) <= goal
    slowest = max(found.seconds[d] for d in found.accepted)
    left = [s for d, s in found.seconds.items() if d not in found.accepted]
    assert all(s >= slowest for s in left)
    assert found.clock_s >= slowest


def test_devices_that_take_no_time_are_all_in_and_nobody_else_is_asked() -> None:
    it = fleet([0.0] * 6)
    cohort = it.cohort(3, 4)
    assert len(cohort) == 4
    found = it.play(3, dict.fromkeys(cohort, 0.1), 4)
    assert (found.accepted, found.clock_s, found.note) == (cohort, 0.0, "")


def test_where_some_may_be_late_three_in_ten_more_are_asked() -> None:
    assert len(fleet([1.0] * 20).cohort(1, 10)) == 13


def test_a_round_that_lost_its_devices_is_given_up() -> None:
    it = fleet([1.0] * 6, dropout=0.99)
    found = it.play(1, dict.fromkeys(it.devices, 0.1), 6)
    assert "of at least 5 updates" in found.note


def test_boards_decide_what_a_device_affords_and_how_long_it_takes() -> None:
    names = [f"d{i}" for i in range(10)]
    groups = [
        FleetGroup(share=0.5, board="raspberry_pi_zero_2_w", bytes_per_round=50_000),
        FleetGroup(share=0.5, board="jetson_orin_nano"),
    ]
    it = make_fleet(
        dict.fromkeys(names, Path()),
        dict.fromkeys(names, 500),
        WORK,
        settings(fleet=groups),
    )
    slow = [d for d in it.devices.values() if d.affords == 0.05]
    fast = [d for d in it.devices.values() if d.affords == 0.1]
    assert (len(slow), len(fast)) == (5, 5)
    assert min(d.seconds[0.05] for d in slow) > max(d.seconds[0.05] for d in fast)
    assert it.timed


def test_a_board_that_affords_nothing_is_an_error_with_its_reason() -> None:
    group = FleetGroup(share=1.0, board="raspberry_pi_zero_2_w", bytes_per_round=10)
    with pytest.raises(RunError, match="can take part at none of"):
        make_fleet(
            {"a": Path(), "b": Path()}, {"a": 9, "b": 9}, WORK, settings(fleet=[group])
        )


def test_fewer_devices_than_a_round_wants_is_an_error() -> None:
    with pytest.raises(SettingsError, match="wants 2 updates and there are 1 devices"):
        make_fleet({"a": Path()}, {"a": 9}, WORK, settings())


def test_others_vanish_in_the_next_attempt_and_what_is_here_counts() -> None:
    """Else each attempt at a warm-up would lose the devices in the same places."""
    it = fleet([1.0] * 4, dropout=0.5)
    asked = dict.fromkeys(it.devices, 0.1)
    came = {it.play(0, asked, 4, attempt=no).accepted for no in range(5)}
    assert len(came) > 1
    assert it.play(0, asked, 4) == it.play(0, asked, 4, attempt=0)
    lost = fleet([1.0] * 2, dropout=0.999)
    pair = dict.fromkeys(lost.devices, 0.1)
    assert lost.play(0, pair, 3).note
    found = lost.play(0, pair, 3, kept=("x", "y"))
    assert (found.note, found.accepted) == ("", ())
