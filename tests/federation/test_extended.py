"""A run that is extended while it runs, one without a last round, and their ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.ledger import read_ledger
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.terminal import Exit

pytestmark = pytest.mark.broker

Make = Callable[..., Any]
DEVICES = ("pi-1", "pi-2", "orin-1")


def coordinator(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coordinator.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rates(run: Path) -> list[float]:
    ledger = read_ledger(run)
    try:
        return [row.rate for row in ledger.rounds() if row.no]
    finally:
        ledger.close()


def test_a_run_is_extended_while_it_runs_and_not_after_its_devices_went(
    federation: Make,
) -> None:
    fleet = federation(rounds=8)
    settings = fleet.run / "run.toml"
    settings.write_text('algorithm = "erk"\n' + settings.read_text())
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 1, "round 1")
    # No round ends while the devices stand still, however slowly the command starts.
    for name in DEVICES:
        fleet.processes[name].send_signal(signal.SIGSTOP)
    done = coordinator("extend", fleet.run, "--rounds", 2)
    for name in DEVICES:
        fleet.processes[name].send_signal(signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert "until 10 rounds are done" in done.stdout
    assert fleet.wait_end() == 0, fleet.logs()
    assert fleet.rounds_done() == 10
    for name in DEVICES:
        assert fleet.wait_end(name) == 0
    # The rate fell as it would have, and stays where it would have ended.
    falling = rates(fleet.run)
    assert falling[0] == pytest.approx(0.2)
    assert falling[:8] == sorted(falling[:8], reverse=True)
    assert falling[7:] == pytest.approx([0.1] * 3)
    late = coordinator("extend", fleet.run, "--rounds", 1)
    assert late.returncode == Exit.STATE
    assert "has ended after 10 rounds, and its devices were told so" in late.stderr


def test_a_run_without_a_last_round_goes_on_until_it_is_stopped(
    federation: Make,
) -> None:
    fleet = federation(rounds=0)
    settings = fleet.run / "run.toml"
    whole = 'algorithm = "erk"\n' + settings.read_text()
    settings.write_text(whole)
    refused = coordinator("run", fleet.run)
    assert refused.returncode == Exit.SETTINGS
    assert "key rounds: 0 has no last round, and the learning rate" in refused.stderr
    settings.write_text(
        whole.replace("[training]", '[training]\nschedule = "constant"')
    )
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    models = fleet.run / "models" / "density-0.1.safetensors"
    fleet.wait(lambda: fleet.rounds_done() >= 3 and models.exists(), "round 3")
    assert "has no last round" in coordinator("extend", fleet.run, "--rounds", 1).stderr
    assert coordinator("stop", fleet.run).returncode == 0
    assert fleet.wait_end() == 0, fleet.logs()
    assert set(rates(fleet.run)) == {0.2}
    assert load_checkpoint(models).round_no >= 1
    status = coordinator("status", fleet.run)
    assert status.returncode == 0
    assert "/0 done" not in status.stdout
