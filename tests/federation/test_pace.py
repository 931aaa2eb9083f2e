"""One device ten times slower, and one whose profile lies, among real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

BENCH = Path(__file__).parents[1] / "bench/bench_straggler.py"


@pytest.mark.alone
@pytest.mark.broker
@pytest.mark.slow
def test_slow_devices_do_fewer_steps_and_are_counted_every_round(
    tmp_path: Path,
) -> None:
    """An honest one from the first round on, a lying one once it was seen twice."""
    found = tmp_path / "found.json"
    command = [sys.executable, str(BENCH), "--liar", "--no-baseline", "--rounds", "3"]
    done = subprocess.run(
        [*command, "--json", str(found)],
        cwd=BENCH.parents[2],
        capture_output=True,
        text=True,
        timeout=patience(280),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fleet = json.loads(found.read_text())
    assert all(len(steps) == 3 for steps in fleet["steps"].values()), done.stdout
    assert fleet["steps"]["pi-1"] == [40] * 3
    # Three seconds' worth: 3-5 steps of 0.8 s; more only where the machine is busy.
    assert all(1 <= steps <= 10 for steps in fleet["steps"]["slow"])
    assert fleet["steps"]["liar"][0] == 40
    assert fleet["steps"]["liar"][-1] <= 20
    for name in ("slow", "liar"):
        assert fleet["densities"][name] == [0.1] * 3
        assert " of 40 steps, because all take " in fleet["pace"][name]
    assert "its profile; profile it again" in fleet["why"]["liar"]
    assert "profile it again" not in fleet["why"]["slow"]
    # All its steps would take the slow one 32 s.
    assert fleet["seconds"][-1] < 16.0
