"""Faults of thought that the checker has to catch, and sound code that it must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]

MOST_SEEDS = 12  # on a slow machine four of them missed the moment


def violations(zygote: Any, folder: Path, seed: int, mutant: str) -> list[str]:
    """What a run of three rounds shows whose coordinator dies at some receipts."""
    from chaos.faults import schedule
    from chaos.run import run_seed

    faults = schedule(seed, rounds=3, devices=0, count=4, only=["die at a receipt"])
    found: list[str] = run_seed(
        seed,
        "mosquitto",
        folder,
        zygote,
        faults=faults,
        rounds=3,
        limit_s=40.0,
        options={"mutant": mutant} if mutant else {},
        stop_at_first=True,
    ).violations
    return found


@pytest.mark.parametrize(
    ("mutant", "said"),
    [
        ("receipt-before-commit", "holds a receipt for"),
        ("running-sum-in-memory", "is not what the ledger add up to"),
    ],
)
def test_a_mutant_is_caught_and_the_code_it_mutates_is_not(
    zygote: Any, tmp_path: Path, mutant: str, said: str
) -> None:
    for seed in range(MOST_SEEDS):
        found = violations(zygote, tmp_path / f"{mutant}-{seed}", seed, mutant)
        if any(said in one for one in found):
            break
    else:
        pytest.fail(f"{mutant} was not caught in {MOST_SEEDS} seeds")
    assert violations(zygote, tmp_path / f"sound-{seed}", seed, "") == []


@pytest.mark.parametrize(
    ("mutant", "test"),
    [
        (
            "no-epoch-fence",
            "tests/device/test_agent.py::"
            "test_a_coordinator_of_an_older_epoch_is_not_heard",
        ),
        (
            "no-epoch-fence",
            "tests/coordinator/test_receiver.py::"
            "test_a_coordinator_ends_when_a_newer_one_has_announced_itself",
        ),
        (
            "no-epoch-fence",
            "tests/coordinator/test_ledger.py::"
            "test_an_older_coordinator_is_fenced_off_where_a_lock_does_not_hold",
        ),
        (
            "no-signature-check",
            "tests/identity/test_signatures.py::"
            "test_a_signature_is_of_its_key_and_nobody_elses",
        ),
    ],
)
def test_a_mutant_fails_the_test_of_its_name(mutant: str, test: str) -> None:
    """In a process of its own, once mutated and once not."""
    for name, expected in ((mutant, 1), ("", 0)):
        code = (
            "import sys, pytest\n"
            "sys.path.insert(0, 'tests')\n"
            "from chaos.mutants import MUTANTS\n"
            f"MUTANTS.get({name!r}, lambda: None)()\n"
            f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {test!r}]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stdout[-3000:] + done.stderr
