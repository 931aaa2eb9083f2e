"""Neighbours of secure rounds: as few as the stated chances allow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coordinator.rounds.secure.graph import (
    COLLUDING,
    LOST,
    chance_of_abort,
    chance_to_learn,
    degree_for,
    holders,
    threshold_of,
)


@pytest.mark.parametrize("devices", [31, 40, 64, 100, 257, 1000, 5000])
def test_the_degree_is_the_least_that_keeps_to_both_chances(devices: int) -> None:
    degree = degree_for(devices)
    assert chance_of_abort(devices, degree) < 1e-3
    assert chance_to_learn(devices, degree) < 2.0**-40
    less = devices, degree - 2
    assert chance_of_abort(*less) >= 1e-3 or chance_to_learn(*less) >= 2.0**-40


def test_up_to_thirty_devices_all_are_neighbours() -> None:
    assert [degree_for(count) for count in range(2, 31)] == list(range(1, 30))


def test_no_degree_passes_the_points_of_the_field() -> None:
    assert all(degree_for(count) <= 254 for count in (256, 10_000, 1_000_000))


def test_chances_are_those_of_drawn_graphs() -> None:
    """The bound is a sum over devices: it is met by counts of what it bounds."""
    devices, degree, rng = 60, 20, np.random.default_rng(7)
    lost, accomplices = math.ceil(LOST * devices), math.floor(COLLUDING * devices)
    names = [f"d-{n:02}" for n in range(devices)]
    short = known = 0
    for _ in range(400):
        graph = holders(dict.fromkeys(names, 1), rng.bytes(16), degree)
        away = set(names[:lost])
        own = set(names[:accomplices])
        for device, held in graph.items():
            assert len(held) == degree + 1
            enough = threshold_of(len(held))
            short += len(set(held) - away) < enough
            known += device not in own and len(own & set(held)) >= enough
    expected = 400 * chance_of_abort(devices, degree)
    assert abs(short - expected) < 0.35 * expected
    assert known <= 400 * chance_to_learn(devices, degree)
