"""A short form of `make chaos`: real processes under a few seeds of faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.mark.parametrize(("broker", "seed"), [("mosquitto", 7)])
def test_whatever_happens_the_history_is_sound_and_every_round_is_closed(
    zygote: Any, tmp_path: Path, broker: str, seed: int
) -> None:
    from chaos.brokers import missing
    from chaos.run import run_seed

    if missing(broker):
        pytest.skip(missing(broker))
    result = run_seed(seed, broker, tmp_path, zygote, rounds=3)
    assert result.violations == []
    assert result.committed == 4  # the warm-up, and the rounds that were wanted
    assert sum(result.faults.values()) >= 4, "a run without faults shows nothing"


def test_a_seed_draws_the_same_faults_every_time() -> None:
    from chaos.faults import KINDS, schedule

    drawn = [schedule(s, rounds=10, devices=3) for s in range(20)]
    assert drawn == [schedule(s, rounds=10, devices=3) for s in range(20)]
    assert len(set(drawn)) == 20
    assert {f.kind for faults in drawn for f in faults} == set(KINDS)
