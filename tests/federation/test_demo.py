"""The demo as a person runs it: stopped by Ctrl-C in a round, then run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from patience import patience, waited

from edge_sdk.terminal import Exit

pytestmark = [pytest.mark.broker, pytest.mark.slow]

LINE = [sys.executable, "-m", "coordinator.cli", "demo", "--task", "digits"]


def test_ctrl_c_stops_all_it_started_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    line = [*LINE, "--rounds", "6", "--folder", str(tmp_path / "demo")]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(line, stdout=log, stderr=log)

    def trains() -> bool:
        said = (tmp_path / "log").read_text()
        assert first.poll() is None, said
        return "round 1:" in said

    assert waited(trains, 120), (tmp_path / "log").read_text()
    children = psutil.Process(first.pid).children(recursive=True)
    assert len(children) >= 9  # coordinator and eight devices, and the broker below
    first.send_signal(signal.SIGINT)
    assert first.wait(patience(60)) == Exit.RUN
    assert "the same command continues" in (tmp_path / "log").read_text().lower()
    psutil.wait_procs(children, timeout=patience(10))
    assert not [c for c in children if c.is_running()]

    again = subprocess.run(
        [*line, "--json"],
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=True,
    )
    found = json.loads(again.stdout)
    assert set(found["exports"]) == {"0.05", "0.1", "0.2"}
    updates = found["run"]["updates"]
    assert {no: n for no, n in updates.items() if no != "0"} == {
        str(no): 8 for no in range(1, 7)
    }
    assert len(list((tmp_path / "demo" / "federation" / "exports").glob("*.onnx"))) == 3
