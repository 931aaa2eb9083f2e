"""The comparison of unequal fleets: its cuts, its choices and its statistics."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coordinator.algorithms.load import load_algorithm
from edge_sdk import Examples
from edge_sdk.datasets.readers import Grouped
from examples.reproduce.pairs import holm, interval
from examples.unequal_fleets.choice import FINALISTS, SHORTER, TUNING_SEEDS, jobs_of
from examples.unequal_fleets.data import SETS, by_people, split
from examples.unequal_fleets.judge import Job, best_within, run
from examples.unequal_fleets.methods import GRID, METHODS, TABLE, WARM_UP, Rate
from examples.unequal_fleets.table import tables

ROOT = Path(__file__).parents[2]


def result(
    method: str, rate: Any, seed: int, part: str, at: float, rounds: int = 40
) -> Any:
    job = Job("digits", method, rate, seed, part, rounds)
    ladder = METHODS[method].densities
    found = {
        **asdict(job),
        "accuracy": {f"{d:g}": at + 10 * d for d in ladder},
        "deployed": {f"{d:g}": at - 1 for d in ladder if len(ladder) > 1},
        "at_home": {"mean": at, "worst tenth": at - 1},
        "devices": at,
        "bytes": 1000,
    }
    return job, found


def write(folder: Path, job: Any, found: Any) -> None:
    place = job.place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found))


def test_no_example_both_trains_and_judges() -> None:
    whole = Examples(np.arange(100)[:, None], np.arange(100))
    parts = [np.arange(3), np.arange(10, 60), np.arange(60, 100)]
    test = Examples(np.array([[-1]]), np.array([-1]))
    found = split(whole, parts, test, np.random.default_rng(3))
    for part, train, home in zip(parts, found.train, found.home, strict=True):
        assert min(len(train), len(home)) > 0
        assert set(train.targets) | set(home.targets) <= set(part)
        assert not set(train.targets) & set(home.targets)
    every = [*found.train, found.validation, *found.home]
    seen = np.concatenate([one.targets for one in every])
    assert sorted(seen) == sorted(np.concatenate(parts))


def test_no_seed_trains_or_chooses_on_what_another_is_judged_on() -> None:
    whole = Examples(np.arange(200)[:, None], np.arange(200))
    data = Grouped(whole, np.repeat(["ann", "bob"], 100))
    one, other = (by_people(lambda _: data, Path(), seed) for seed in (1, 101))
    assert sorted(one.test.targets) == sorted(other.test.targets)
    assert sorted(one.train[0].targets) != sorted(other.train[0].targets)


def test_one_seed_may_choose_for_every_method(tmp_path: Path) -> None:
    wanted = (tmp_path, "tune", ["digits"], ["flash-edge", "fjord"], 5, None)
    assert len(jobs_of(*wanted)) == 2 * len(jobs_of(*wanted, 1)) == 32
    for rate in GRID:
        at = 50.0 + (rate == GRID[2])
        write(tmp_path, *result("fjord", rate, TUNING_SEEDS[0], "tune", at))
    judged = (tmp_path, "test", ["digits"], ["fjord"], 1, None)
    assert jobs_of(*judged) == []
    assert [job.rate for job in jobs_of(*judged, 1)] == [GRID[2]]


def test_a_halving_runs_the_best_two_rates_whole_and_chooses_among_them(
    tmp_path: Path,
) -> None:
    def left(part: str, *methods: str) -> list[Job]:
        wanted = (tmp_path, part, ["digits"], [*methods], 1, None, 1)
        return jobs_of(*wanted, halving=True)

    rounds, (seed, _) = SETS["digits"].rounds, TUNING_SEEDS
    short, rows = rounds // SHORTER, ("fjord", "heterofl")
    assert {job.rounds for job in left("tune", *rows)} == {short}
    assert len(left("tune", *rows)) == 2 * len(GRID)
    for place, rate in enumerate(GRID):
        write(tmp_path, *result("fjord", rate, seed, "tune", 50.0 + place, short))
    whole = [job for job in left("tune", *rows) if job.method == "fjord"]
    assert [job.rate for job in whole] == [*GRID[: -FINALISTS - 1 : -1]]
    assert {job.rounds for job in whole} == {rounds}
    assert left("test", "fjord") == []
    # Of the two the worse with few rounds is the better one with all; another rate
    # that somebody has run whole was no finalist.
    for rate, at in ((GRID[-1], 70.0), (GRID[-2], 71.0), (GRID[0], 99.0)):
        write(tmp_path, *result("fjord", rate, seed, "tune", at))
    assert [job.rate for job in left("test", "fjord")] == [GRID[-2]]
    assert {job.method for job in left("tune", *rows)} == {"heterofl"}


def test_the_rate_is_chosen_on_validation_and_the_test_waits_for_it(
    tmp_path: Path,
) -> None:
    wanted = (tmp_path, "test", ["digits"], ["flash-edge"], 3, None)
    assert jobs_of(*wanted) == []
    best = GRID[5]
    for rate in GRID:
        for seed in TUNING_SEEDS:
            at = 50.0 + (rate == best)
            write(tmp_path, *result("flash-edge", rate, seed, "tune", at))
    jobs = jobs_of(*wanted)
    assert [(job.rate, job.seed) for job in jobs] == [(best, s) for s in (1, 2, 3)]
    assert not {job.seed for job in jobs} & set(TUNING_SEEDS)
    alone = jobs_of(tmp_path, "test", ["digits"], ["flash-edge, no warm-up"], 1, None)
    assert [job.rate for job in alone] == [best]  # that of its row with a warm-up
    write(tmp_path, *result("flash-edge", best, 2, "test", 60.0))
    assert [job.seed for job in jobs_of(*wanted)] == [1, 3]
    for seed in (1, 3):
        write(tmp_path, *result("flash-edge", best, seed, "test", 60.0 + seed))
    for seed in (1, 2, 3):
        row = result("everybody at 0.05", best, seed, "test", 58.0 + seed)
        write(tmp_path, *row)
    table = tables(tmp_path, ["digits"], list(METHODS))
    assert "| flash-edge | 0.2, 0.9 | 3 | 61.83 +- 1.53 |" in table
    assert "| mean, best by validation | everybody at 0.05 | +0.33" in table
    assert "| at 0.05 | everybody at 0.05 | +1.33" in table


def test_a_device_deploys_the_best_network_by_validation_that_it_can_hold() -> None:
    judged = {0.05: 1.0, 0.1: 2.0, 0.2: 3.0}
    assert best_within({0.05: 9, 0.1: 8, 0.2: 9}, judged) == {0.05: 1, 0.1: 1, 0.2: 3}
    assert best_within({0.05: 1, 0.1: 5, 0.2: 2}, judged) == {0.05: 1, 0.1: 2, 0.2: 2}
    assert best_within({0.05: 1, 0.1: 2, 0.2: 9}, judged) == judged  # none takes more
    assert best_within({1.0: 4.0}, {1.0: 7.0}) == {1.0: 7.0}


def test_rows_without_a_warm_up_are_asked_for_by_name_and_paired(
    tmp_path: Path,
) -> None:
    assert not {one.name for one in WARM_UP.values()} & {one.name for one in TABLE}
    assert set(WARM_UP) | {one.name for one in WARM_UP.values()} <= set(METHODS)
    for one in WARM_UP.values():
        assert not load_algorithm(one.algorithm).warms_up
    name, without = "everybody at 0.05", WARM_UP["everybody at 0.05"].name
    for seed, less in ((1, 0.5), (2, 1.0), (3, 1.5)):
        write(tmp_path, *result(name, GRID[5], seed, "test", 60.0 + seed))
        write(tmp_path, *result(without, GRID[5], seed, "test", 60.0 + seed - less))
    table = tables(tmp_path, ["digits"], list(METHODS))
    assert f"| {name} | 0.05 | +1.00 [-0.24, +2.24] |" in table


def test_one_run_gives_every_density_at_its_devices(tmp_path: Path) -> None:
    rate = Rate(0.2, 0.0)
    found = run(Job("digits", "flash-edge", rate, 1, "test", 1), tmp_path, tmp_path)
    assert set(found["accuracy"]) == {"0.05", "0.1", "0.2"}
    assert set(found["at_home"]) == {"mean", "worst tenth", "0.05", "0.1", "0.2"}
    assert set(found["deployed"].values()) <= set(found["accuracy"].values())
    assert found["deployed"]["0.05"] == found["accuracy"]["0.05"]  # it has no other
    assert found["bytes"] > 0


def test_a_run_that_finds_its_warm_up_done_gives_the_same_figures(
    tmp_path: Path,
) -> None:
    name, rates = "everybody at 0.05", [Rate(0.2, 0.0), Rate(0.2, 0.9)]
    alone = run(Job("digits", name, rates[1], 1, "test", 2), tmp_path, tmp_path / "a")
    shared = tmp_path / "b"
    other = "flash, everybody at 0.05"
    run(Job("digits", other, rates[0], 1, "tune", 1), tmp_path, shared)
    (place,) = (shared / "warm-up" / "digits").iterdir()
    before = place.stat().st_mtime_ns
    after = run(Job("digits", name, rates[1], 1, "test", 2), tmp_path, shared)
    assert after == alone
    assert place.stat().st_mtime_ns == before  # the second had none of its own
    run(Job("digits", name, rates[1], 2, "tune", 1), tmp_path, shared)
    assert len([*place.parent.iterdir()]) == 2  # another seed has another


@given(st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=8))
def test_corrected_p_values_keep_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))
    if len(p_values) > 2 and len(set(p_values)) > 1:
        found = interval(p_values)
        known = stats.ttest_1samp(p_values, 0.0).confidence_interval(0.95)
        assert found[1:] == pytest.approx((known.low, known.high))


def test_the_command_prints_the_table_of_a_folder(tmp_path: Path) -> None:
    for seed in (1, 2):
        write(tmp_path, *result("flash-edge", GRID[0], seed, "test", 60.0 + seed))
    line = [sys.executable, "-m", "examples.unequal_fleets", "table", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "## digits" in done.stdout
    assert "| flash-edge | 0.05, 0 | 2 |" in done.stdout
