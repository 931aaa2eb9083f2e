"""The comparison of unequal fleets: its cuts, its choices and its statistics."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_sdk import Examples

PLACE = Path(__file__).parents[2] / "examples" / "unequal_fleets"
MODULES = ("data", "judge", "methods", "statistics_of_pairs", "table")


@pytest.fixture(scope="module")
def judge() -> Iterator[Any]:
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(PLACE))
    import judge as found

    yield found
    sys.path.remove(str(PLACE))
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def result(judge: Any, method: str, rate: Any, seed: int, part: str, at: float) -> Any:
    job = judge.Job("digits", method, rate, seed, part, 40)
    ladder = judge.METHODS[method].densities
    found = {
        **judge.asdict(job),
        "accuracy": {f"{d:g}": at + 10 * d for d in ladder},
        "at_home": {"mean": at, "worst tenth": at - 1},
        "devices": at,
        "bytes": 1000,
    }
    return job, found


def write(folder: Path, job: Any, found: Any) -> None:
    place = job.place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found))


def test_no_example_both_trains_and_judges(judge: Any) -> None:
    whole = Examples(np.arange(100)[:, None], np.arange(100))
    parts = [np.arange(3), np.arange(10, 60), np.arange(60, 100)]
    test = Examples(np.array([[-1]]), np.array([-1]))
    found = sys.modules["data"].split(whole, parts, test, np.random.default_rng(3))
    for part, train, home in zip(parts, found.train, found.home, strict=True):
        assert min(len(train), len(home)) > 0
        assert set(train.targets) | set(home.targets) <= set(part)
        assert not set(train.targets) & set(home.targets)
    every = [*found.train, found.validation, *found.home]
    seen = np.concatenate([one.targets for one in every])
    assert sorted(seen) == sorted(np.concatenate(parts))


def test_the_rate_is_chosen_on_validation_and_the_test_waits_for_it(
    judge: Any, tmp_path: Path
) -> None:
    wanted = (tmp_path, "test", ["digits"], ["flash-edge"], 3, None)
    assert judge.jobs_of(*wanted) == []
    best = judge.GRID[5]
    for rate in judge.GRID:
        for seed in judge.TUNING_SEEDS:
            at = 50.0 + (rate == best)
            write(tmp_path, *result(judge, "flash-edge", rate, seed, "tune", at))
    jobs = judge.jobs_of(*wanted)
    assert [(job.rate, job.seed) for job in jobs] == [(best, s) for s in (1, 2, 3)]
    assert not {job.seed for job in jobs} & set(judge.TUNING_SEEDS)
    write(tmp_path, *result(judge, "flash-edge", best, 2, "test", 60.0))
    assert [job.seed for job in judge.jobs_of(*wanted)] == [1, 3]
    for seed in (1, 3):
        write(tmp_path, *result(judge, "flash-edge", best, seed, "test", 60.0 + seed))
    for seed in (1, 2, 3):
        row = result(judge, "everybody at 0.05", best, seed, "test", 58.0 + seed)
        write(tmp_path, *row)
    table = judge.tables(tmp_path, ["digits"], list(judge.METHODS))
    assert "| flash-edge | 0.2, 0.9 | 3 | 61.83 +- 1.53 |" in table
    assert "| at 0.05 | everybody at 0.05 | +1.33" in table


def test_one_run_gives_every_density_at_its_devices(judge: Any, tmp_path: Path) -> None:
    rate = judge.Rate(0.2, 0.0)
    found = judge.run(judge.Job("digits", "flash-edge", rate, 1, "test", 1), tmp_path)
    assert set(found["accuracy"]) == {"0.05", "0.1", "0.2"}
    assert set(found["at_home"]) == {"mean", "worst tenth", "0.05", "0.1", "0.2"}
    assert found["bytes"] > 0


@given(st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=8))
def test_corrected_p_values_keep_their_order(p_values: list[float]) -> None:
    sys.path.insert(0, str(PLACE))
    from statistics_of_pairs import difference, holm

    sys.path.remove(str(PLACE))
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))
    one = dict(enumerate(p_values))
    if len(one) > 2 and len(set(p_values)) > 1:
        found = difference(one, dict.fromkeys(one, 0.0))
        assert found is not None
        known = stats.ttest_1samp(p_values, 0.0).confidence_interval(0.95)
        assert found[1:] == pytest.approx((known.low, known.high))
