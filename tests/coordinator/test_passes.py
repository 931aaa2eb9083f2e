"""Passes of a batch, as an algorithm's slots say, in what a device is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.passes import passes_of
from coordinator.densities import assign
from coordinator.operations.planning import plan_fleet
from coordinator.rounds.expected_time import expect
from coordinator.rounds.pace import pace
from coordinator.simulation.fleet import make_fleet
from coordinator.simulation.settings import FleetGroup, SimulationSettings
from device_profiles import LayerLoad, NetworkPass, Workload, cost_of, load_board
from edge_sdk.sparse import LayerShape

LADDER = (0.05, 0.1, 0.2)
CHAIN = tuple(
    LayerLoad(f"{n}.weight", 9 * 64 * 64, 9 * 64 * 64 * 100) for n in range(4)
)
LOAD = Workload(
    layers=CHAIN,
    other_numel=100,
    activations=4 * 64 * 100,
    input_bytes=6400,
    examples=320,
    operators=60,
    traffic_bytes=4 * 64 * 100 * 40,
    kernel_bytes=4 * 64 * 100 * 20,
    saved_bytes=4 * 64 * 100 * 8,
)
BOARD = load_board("raspberry_pi_4b_4gb")


def load_of(name: str) -> Workload:
    return replace(LOAD, batch_passes=passes_of(ALGORITHMS[name], LADDER))


def test_each_batch_of_a_strong_device_goes_through_all_smaller_networks() -> None:
    found = passes_of(ALGORITHMS["flash-edge"], LADDER)
    assert [p.density for p in found[0.2]] == [0.2, 0.1, 0.05]
    assert [p.density for p in found[0.1]] == [0.1, 0.05]
    assert [p.density for p in found[0.05]] == [0.05]
    assert all(p.times == 1 for passes in found.values() for p in passes)
    for inner in found[0.2]:  # units by the root of the density over the top's
        assert inner.width == pytest.approx(sqrt(inner.density / 0.2), abs=0.03)


def test_one_density_or_one_network_is_one_pass() -> None:
    assert passes_of(ALGORITHMS["flash-edge"], [0.1]) == {}
    for name in ("flash", "hetero-flash", "fedavg", "prunefl", "scaffold"):
        assert passes_of(ALGORITHMS[name], LADDER) == {}, name
    assert LOAD.passes_at(0.1) == (NetworkPass(0.1),)


def test_a_network_of_some_batches_counts_by_its_share() -> None:
    for passes in passes_of(ALGORITHMS["fjord"], LADDER).values():
        assert sum(p.times for p in passes) == pytest.approx(1)
        assert len({round(p.times, 9) for p in passes}) == 1  # each as often


def test_low_densities_have_their_passes_too() -> None:
    found = passes_of(ALGORITHMS["flash-edge"], (0.002, 0.3))
    assert [p.density for p in found[0.3]] == [0.3, 0.002]


def broken(
    _layers: object, _densities: object, _findings: WarmUpResult | None, _seed: int
) -> object:
    raise ValueError("knows layers by name")


def test_slots_that_do_not_take_the_stand_in_count_one_pass() -> None:
    own: Algorithm = replace(ALGORITHMS["flash-edge"], plan=broken)  # type: ignore[arg-type]
    assert passes_of(own, LADDER) == {}


@pytest.mark.parametrize("engine", ["sparse", "masked"])
def test_time_and_memory_count_every_pass_by_its_size(engine: str) -> None:
    alone = {
        d: cost_of(BOARD, LOAD, d, engine=engine)  # type: ignore[arg-type]
        for d in LADDER
    }
    beside = {
        d: cost_of(BOARD, load_of("flash-edge"), d, engine=engine)  # type: ignore[arg-type]
        for d in LADDER
    }
    one, three = alone[0.2], beside[0.2]
    whole = sum(cost.training_seconds for cost in alone.values())
    assert one.training_seconds < three.training_seconds < whole
    assert three.peak_mib > one.peak_mib
    assert three.bytes_up == one.bytes_up  # one update, whatever trained it
    assert beside[0.05].training_seconds < alone[0.05].training_seconds  # fewer units
    assert beside[0.05].peak_mib <= alone[0.05].peak_mib


def test_a_board_that_affords_one_pass_and_not_three_gets_a_lower_density() -> None:
    single = cost_of(BOARD, LOAD, 0.2).seconds
    budget = 1.2 * single
    before = assign({"it": BOARD}, LOAD, LADDER, budget)["it"]
    after = assign({"it": BOARD}, load_of("flash-edge"), LADDER, budget)["it"]
    assert before.density == 0.2
    assert after.density is not None
    assert after.density < 0.2
    assert "with 2 smaller networks beside" in after.why


def test_pace_and_plan_follow_the_passes() -> None:
    load = load_of("flash-edge")
    cost = cost_of(BOARD, load, 0.2)
    told = expect(cost, load)
    assert told.step_s == pytest.approx(cost.training_seconds / load.steps)
    fast = {f"d{i}": expect(cost_of(BOARD, load, 0.05), load) for i in range(3)}
    assert pace({**fast, "it": told}, 60.0).target_s >= told.seconds
    rows = plan_fleet({"it": BOARD}, load, (0.2,)).boards
    assert rows[0].seconds == cost.seconds
    assert rows[0].peak_mib == cost.peak_mib


def test_a_simulated_board_takes_the_time_of_its_passes() -> None:
    settings = SimulationSettings(
        task="digits", densities=[*LADDER], cohort=1, rounds=1,
        fleet=[FleetGroup(share=1.0, board="raspberry_pi_4b_4gb")],
    )  # fmt: skip
    made: Mapping[str, Workload] = {n: load_of(n) for n in ("flash-edge", "flash")}
    seconds = {}
    for name, load in made.items():
        fleet = make_fleet({"a": Path()}, {"a": 320}, load, settings)
        seconds[name] = fleet.devices["a"].seconds
    assert seconds["flash-edge"][0.2] > seconds["flash"][0.2]
    assert seconds["flash-edge"][1.0] == seconds["flash"][1.0]


def test_what_is_predicted_is_what_orders_ask() -> None:
    """The stand-in's passes are those of the rule on a run's own masks."""
    layers = (LayerShape("a.weight", (32, 32)), LayerShape("b.weight", (32, 32)))
    kept = {s.name: 0.2 * s.numel for s in layers}
    whole = np.ones(layers[0].shape)
    findings = WarmUpResult(kept, saliency={s.name: whole for s in layers})
    algorithm = ALGORITHMS["flash-edge"]
    family = algorithm.plan(layers, LADDER, findings, 3)
    found = passes_of(algorithm, LADDER)
    for density, mask in family.masks.items():
        assert len(family.members(mask)) == len(found[density]) - 1
