"""Whoever is killed at whichever step of a secure round: no wrong sum, no two secrets.

`python tests/secure_kills.py --seeds 50` does many.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from secure_kills import STEPS, killed_at_each_step, killed_at_random


@pytest.mark.parametrize("who", ["coordinator", "pi-1"])
def test_a_kill_before_each_message_of_a_round_gives_no_wrong_sum(
    tmp_path: Path, who: str
) -> None:
    steps = len(STEPS) if who != "coordinator" else 5
    assert killed_at_each_step(tmp_path, who) == steps


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_any_moment_give_no_wrong_sum_and_reveal_no_two_secrets(
    tmp_path: Path, seed: int
) -> None:
    assert killed_at_random(tmp_path, seed)["kills"] > 0
