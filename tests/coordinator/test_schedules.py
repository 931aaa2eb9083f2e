"""Learning rates of runs that end, go on for ever, or were extended."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from coordinator.algorithms.load import load_algorithm
from coordinator.settings import TrainingSettings
from coordinator.settings.checks import check_algorithm_fits, check_endless
from coordinator.settings.extension import (
    extended,
    extended_rounds,
    keep_extension,
)
from coordinator.settings.run import RunSettings
from edge_sdk.errors import SettingsError, StateError

FALLING = TrainingSettings(rate=0.4, rate_end=0.1)


def rates(training: TrainingSettings, rounds: int, count: int) -> list[float]:
    return [training.rate_at(no, rounds) for no in range(1, count + 1)]


def test_an_exponential_falls_as_it_always_did() -> None:
    assert rates(FALLING, 3, 3) == pytest.approx([0.4, 0.2, 0.1])
    beyond = structs.replace(FALLING, horizon=3)
    assert beyond.rate_at(5, 9) == pytest.approx(0.025)


def test_no_rate_is_below_its_end() -> None:
    assert rates(FALLING, 3, 5) == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1])


def test_an_endless_exponential_stays_at_its_end() -> None:
    endless = TrainingSettings(rate=0.4, rate_end=0.1, horizon=3)
    assert rates(endless, 0, 5) == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1])


def test_a_constant_rate_is_constant() -> None:
    assert set(rates(TrainingSettings(rate=0.3, schedule="constant"), 0, 9)) == {0.3}


def test_a_cosine_begins_anew_with_each_period() -> None:
    cosine = TrainingSettings(rate=0.5, rate_end=0.1, schedule="cosine", period=4)
    found = rates(cosine, 0, 9)
    assert found[:5] == pytest.approx([0.5, 0.44142136, 0.3, 0.15857864, 0.5])
    assert found[4:8] == pytest.approx(found[:4])
    whole = TrainingSettings(rate=0.5, rate_end=0.1, schedule="cosine")
    assert rates(whole, 5, 5)[0::2] == pytest.approx([0.5, 0.3, 0.1])


def test_rounds_that_recalibrate_move_nothing_after_the_rate_has_fallen() -> None:
    last = structs.replace(FALLING, recalibrate=2)
    assert rates(last, 5, 6) == pytest.approx([0.4, 0.2, 0.1, 0.0, 0.0, 0.0])
    longer, training = extended(5, last, 7)
    assert rates(training, longer, 7) == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1, 0, 0])
    assert 0.0 not in rates(structs.replace(last, schedule="constant"), 5, 3)


@pytest.mark.parametrize(
    ("algorithm", "rounds", "said"),
    [
        ("flash", 2, "the last 2 of 2 rounds move no weight"),
        ("flash", 0, "the last 2 of endless rounds move no weight"),
        ("jmwst", 9, "jmwst moves its masks"),
        ("fedavgm", 9, "fedavgm moves its masks, or remembers"),
        ("zerofl", 9, "zerofl moves its masks"),
        ("scaffold", 9, "scaffold moves its masks, or remembers"),
    ],
)
def test_what_does_not_go_with_recalibration_is_named(
    algorithm: str, rounds: int, said: str
) -> None:
    training = structs.replace(FALLING, recalibrate=2, horizon=3)
    settings = RunSettings(
        federation="f", task="digits", evaluation="x", densities=[0.4], rounds=rounds,
        training=training,
    )  # fmt: skip
    with pytest.raises(SettingsError, match=said) as caught:
        check_algorithm_fits(load_algorithm(algorithm), settings)
    assert "key training.recalibrate" in str(caught.value)
    assert caught.value.help
    for fits in ("flash", "flash-edge", "fjord", "heterofl", "fedprox", "fedavg"):
        more = structs.replace(settings, rounds=9)
        check_algorithm_fits(load_algorithm(fits), more)


def test_an_extended_run_goes_on_where_its_rate_was() -> None:
    rounds, training = extended(3, FALLING, 6)
    assert rounds == 6
    assert rates(training, 6, 6) == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    again = extended(rounds, training, 9)
    assert again == (9, training)
    assert extended(3, FALLING, 0) == (3, FALLING)
    assert extended(0, FALLING, 9) == (0, FALLING)


def run_of(training: TrainingSettings) -> RunSettings:
    return RunSettings(
        federation="endless",
        task="digits",
        evaluation=Path(),
        densities=[0.1],
        rounds=0,
        training=training,
    )


@pytest.mark.parametrize(
    ("training", "algorithm", "told"),
    [
        (FALLING, "flash", "key rounds: 0 has no last round, and the learning rate"),
        (TrainingSettings(schedule="cosine"), "flash", "key training.period"),
        (TrainingSettings(schedule="constant"), "feddst", "moves its masks"),
        (TrainingSettings(schedule="constant"), "prunefl", "moves its masks"),
    ],
)
def test_what_needs_a_last_round_is_named(
    training: TrainingSettings, algorithm: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        check_endless(load_algorithm(algorithm), run_of(training), where="")


def test_what_needs_none_is_taken() -> None:
    constant = run_of(TrainingSettings(schedule="constant"))
    check_endless(load_algorithm("prunefl(shift=0.3)"), constant, where="")
    for training in (
        TrainingSettings(horizon=50),
        TrainingSettings(schedule="constant"),
        TrainingSettings(schedule="cosine", period=10),
    ):
        check_endless(load_algorithm("flash"), run_of(training), where="")
    moving = TrainingSettings(schedule="constant", horizon=40)
    check_endless(load_algorithm("feddst"), run_of(moving), where="")


def test_an_extension_is_a_file_of_one_number(tmp_path: Path) -> None:
    assert extended_rounds(tmp_path) == 0
    keep_extension(tmp_path, 120)
    assert extended_rounds(tmp_path) == 120
    keep_extension(tmp_path, 0)
    assert extended_rounds(tmp_path) == 0


@pytest.mark.parametrize("text", ["many", "", "-3", "0", "1e3", "12 13", "9" * 20, "é"])
def test_an_extension_that_is_no_number_of_rounds_is_named(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "rounds").write_text(text)
    told = r"rounds holds '.*', which is no number of rounds"
    with pytest.raises(StateError, match=told) as raised:
        extended_rounds(tmp_path)
    assert f"flash-coordinator extend {tmp_path} --rounds N" in raised.value.help
