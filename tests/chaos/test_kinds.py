"""A sample of runs of other kinds under kills; `make chaos-kinds` has more seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.broker
@pytest.mark.slow
def test_kills_change_no_bit_of_a_run_with_personal_parts(
    zygote: Any, tmp_path: Path
) -> None:
    from chaos.kinds import KINDS, compare_seed, quiet

    calm, wanted = quiet(KINDS["personal"], tmp_path / "quiet", zygote)
    assert calm.violations == []
    assert all(wanted["memories"].values()), "nobody kept anything personal"
    hurt = compare_seed(KINDS["personal"], 1, tmp_path / "hurt", zygote, wanted)
    assert hurt.violations == []
    assert sum(hurt.faults.values()) >= 3, "a run without faults shows nothing"
    assert hurt.committed == calm.committed == 4


def test_another_bit_is_named_and_another_cohort_ends_the_comparison() -> None:
    from chaos.kinds import differs, same_rounds

    quiet: dict[str, Any] = {
        "cohorts": {0: ["a"], 1: ["a", "b"], 2: ["a", "b"]},
        "models": {0: b"0", 1: b"1", 2: b"2"},
        "files": {"density-0.1": b"2"},
        "memories": {"a": [b"m"]},
        "tests": {(1, "a"): (5, {"accuracy": [3.0, 5.0]})},
    }
    assert differs(quiet, quiet) == []
    for part, key, what in (
        ("models", 1, "model of round 1"),
        ("files", "density-0.1", "density-0.1"),
        ("memories", "a", "what a keeps"),
        ("tests", (1, "a"), "test by a of round 1"),
    ):
        other = {**quiet, part: {**quiet[part], key: b"other"}}
        assert [w for w in differs(quiet, other) if what in w] == differs(quiet, other)
        assert differs(quiet, other), part
    alone = {
        **quiet,
        "cohorts": {**quiet["cohorts"], 2: ["a"]},
        "models": {0: b"0", 1: b"1"},
    }
    assert same_rounds(quiet, alone) == [0, 1]
    assert differs(quiet, alone) == []
    assert differs(quiet, {**quiet, "tests": {}}) == []
