"""The budget of a private run that goes on: what is spent stays spent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.algorithms.privacy import PrivacySettings, check_budget, keep_noise
from coordinator.algorithms.privacy.accountant import epsilon_of
from coordinator.algorithms.privacy.budget import _epsilon
from coordinator.ledger import open_ledger
from coordinator.operations.extend import extend_run
from coordinator.rounds.state import RoundPhase
from coordinator.server.wiring import serve
from coordinator.settings import RunSettings
from edge_sdk.errors import SettingsError
from edge_sdk.terminal import OutputOptions


class Memory(dict[str, Any]):
    """A ledger of so many rounds."""

    done = 0
    put = dict.__setitem__

    def rounds_done(self) -> int:
        return self.done


def run(noise: float, rounds: int = 40, epsilon: float = 8.0) -> RunSettings:
    return RunSettings(
        federation="demo", task="digits", evaluation=Path("eval"), densities=[0.1],
        rounds=rounds, cohort=10, algorithm="equal-counts",
        privacy=PrivacySettings(noise_multiplier=noise, epsilon=epsilon),
    )  # fmt: skip


def after(*lives: tuple[float, int]) -> Memory:
    """A run that had so many rounds of this noise, then so many of that."""
    memory = Memory()
    for noise, rounds in lives:
        keep_noise(memory, noise)
        memory.done += rounds
    return memory


def test_rounds_of_one_noise_come_to_what_the_settings_say() -> None:
    for done in (0, 10, 40):
        check_budget(after((4.05, done)), run(4.05))


def test_less_noise_at_resume_counts_for_the_rounds_ahead_alone_and_is_refused() -> (
    None
):
    with pytest.raises(SettingsError) as caught:
        check_budget(after((4.05, 20)), run(3.0))
    assert "20 rounds have spent 5.3 of 8" in str(caught.value)
    fit = int(str(caught.value.help).split("rounds to ")[1].split(",")[0])
    assert 20 < fit < 40
    check_budget(after((4.05, 20)), run(3.0, fit))
    with pytest.raises(SettingsError):
        check_budget(after((4.05, 20)), run(3.0, fit + 1))


def test_more_noise_at_resume_gives_nothing_back_of_what_is_spent() -> None:
    memory = after((1.0, 30))
    keep_noise(memory, 100.0)
    with pytest.raises(SettingsError, match="8 is spent by the 30 rounds"):
        check_budget(memory, run(100.0))
    with pytest.raises(SettingsError, match="2 is spent by the 20 rounds"):
        check_budget(after((4.05, 20)), run(4.05, epsilon=2.0))


def test_rounds_without_noise_have_no_budget() -> None:
    for memory in (after((0.0, 3)), after((4.05, 5), (0.0, 1), (4.05, 5))):
        keep_noise(memory, 4.05)
        with pytest.raises(SettingsError, match="some had no noise"):
            check_budget(memory, run(4.05))
    untold = Memory()
    untold.done = 3
    with pytest.raises(SettingsError, match="some had no noise"):
        check_budget(untold, run(4.05))
    check_budget(untold, run(4.05, epsilon=0.0))  # no bound was asked for


def test_noise_that_is_unequal_costs_as_much_as_equal_noise_between() -> None:
    assert _epsilon([(40, 4.05)], 1e-5) == epsilon_of(4.05, 40, 1e-5)
    assert _epsilon([(10, 4.05), (30, 4.05)], 1e-5) == pytest.approx(
        epsilon_of(4.05, 40, 1e-5)
    )
    mixed = _epsilon([(20, 2.0), (20, 8.0)], 1e-5)
    assert epsilon_of(8.0, 40, 1e-5) < epsilon_of(2.0, 20, 1e-5) < mixed
    assert mixed < epsilon_of(2.0, 40, 1e-5)
    assert _epsilon([(0, 0.0), (0, 1.0)], 1e-5) == 0
    assert _epsilon([(1, 0.0)], 1e-5) == math.inf


def test_a_run_whose_budget_is_spent_is_not_resumed_nor_extended(
    tmp_path: Path,
) -> None:
    (tmp_path / "eval").mkdir()
    ledger = open_ledger(tmp_path)
    keep_noise(ledger, 1.0)
    for no in range(1, 4):
        ledger.plan_round(no, goal=3, quorum=3, rate=0.1, base="")
        ledger.finish(no, model=f"round-{no:05d}.safetensors")
    assert [row.phase for row in ledger.rounds()] == [RoundPhase.DONE] * 3
    ledger.close()
    text = """
federation = "demo"
task = "digits"
evaluation = "eval"
densities = [0.1]
rounds = 5
cohort = 10
algorithm = "equal-counts"
insecure = true
[privacy]
noise_multiplier = 4.05
epsilon = 4.0
"""
    (tmp_path / "run.toml").write_text(text)
    settings = msgspec.structs.replace(
        run(4.05, 5, 4.0), insecure=True, evaluation=None
    )
    with pytest.raises(SettingsError, match="4 is spent by the 3 rounds"):
        serve(tmp_path, settings, OutputOptions())
    with pytest.raises(SettingsError, match=r"extended: .*4 is spent by the 3 rounds"):
        extend_run(tmp_path, 1)
