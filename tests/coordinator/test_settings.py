from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.settings import TrainingSettings, load_run
from edge_sdk.errors import DensityError, EdgeError, SettingsError

GOOD = """
federation = "demo"
task = "digits"
evaluation = "eval"
densities = [0.1, 0.05]
rounds = 3
[training]
rate = 0.1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_good_file_becomes_settings(tmp_path: Path) -> None:
    run = load_run(written(tmp_path, GOOD))
    assert run.evaluation == tmp_path.resolve() / "eval"
    assert run.algorithm == "flash-edge"
    assert run.densities == [0.1, 0.05]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rounds = 3", "rounds = 0"), ["key rounds", "has no last round"]),
        (("rounds = 3", "rounds = -1"), ["key rounds", ">= 0"]),
        (("rounds = 3", "round = 3"), ["unknown field `round`"]),
        (("rounds = 3", ""), ["missing required field `rounds`"]),
        (("rounds = 3", 'rounds = "3"'), ["key rounds", "Expected `int`"]),
        (("rate = 0.1", "lr = 0.1"), ["key training", "unknown field `lr`"]),
        (("rate = 0.1", "rate = 0"), ["key training.rate", "> 0"]),
        (("rate = 0.1", "rate = nan"), ["key training.rate"]),
        (("rate = 0.1", "momentum = 1.0"), ["key training.momentum", "< 1"]),
        (("[0.1, 0.05]", "[]"), ["key densities", "length >= 1"]),
        (("[0.1, 0.05]", '[0.1, "x"]'), ["key densities[1]", "`float`"]),
        (("[0.1, 0.05]", "[1.5]"), ["key densities", "1.5", "(0, 1]"]),
        (("[0.1, 0.05]", "[0.0]"), ["key densities", "(0, 1]"]),
        (("[0.1, 0.05]", "[nan]"), ["key densities", "nan is no number"]),
        (("rounds = 3", 'rounds = 3\nalgorithm = "x"'), ["key algorithm", "fedavg"]),
        (
            (
                "rounds = 3",
                'rounds = 3\nalgorithm = "feddst"\naggregate = "trimmed-mean"',
            ),
            ["key aggregate", "feddst moves them"],
        ),
        (("rate = 0.1", "power = 0.5"), ["key training.power", ">= 1"]),
        (
            ("[training]", 'algorithm = "jmwst"\n[training]\npower = 1.5'),
            ["key training.power", "jmwst moves its masks"],
        ),
        (("[training]", "[gate]\ntrim = 0.5\n[training]"), ["key gate.trim", "< 0.5"]),
        (("rounds = 3", "rounds = 3\nport = 70000"), ["key port", "<= 65535"]),
        (('"demo"', '"Demo fleet"'), ["key federation", "2 to 63 small letters"]),
        (("rounds = 3", "rounds = "), ["not readable TOML"]),
    ],
    ids=lambda value: value[-1].strip() if isinstance(value, tuple) else "",
)
def test_a_wrong_file_names_file_key_and_expectation(
    tmp_path: Path, change: tuple[str, str], said: list[str]
) -> None:
    path = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(EdgeError) as caught:
        load_run(path)
    assert isinstance(caught.value, SettingsError | DensityError)
    for part in [str(path), *said]:
        assert part in str(caught.value)


@given(st.floats(1e-4, 1), st.floats(1e-4, 1), st.integers(1, 500))
def test_the_rate_goes_from_its_first_to_its_last_value(
    rate: float, end: float, rounds: int
) -> None:
    training = TrainingSettings(rate=rate, rate_end=end)
    rates = [training.rate_at(no, rounds) for no in range(rounds + 1)]
    assert rates[0] == rates[1] == rate
    if rounds > 1:
        assert math.isclose(rates[-1], end, rel_tol=1e-9)
    late = TrainingSettings(rate=rate, rate_end=end, lag=2, horizon=rounds)
    assert [late.rate_at(no + 2, 900) for no in range(1, rounds + 1)] == rates[1:]
    assert late.rate_at(2, 900) == late.rate_at(3, 900) == rate
    steps = [b - a for a, b in pairwise(rates[1:])]
    assert all(s <= 1e-12 for s in steps) or all(s >= -1e-12 for s in steps)
