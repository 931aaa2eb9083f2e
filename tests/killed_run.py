"""A simulation that dies by SIGKILL in mid-round, however fast it or its test is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coordinator.simulation.record import read_records

__all__ = ["killed_in_round"]

# Its own thread kills it a moment after the round has begun: a test that looked on from
# outside would at times come after the last round.
PROGRAM = """
import os, threading
from coordinator.cli import main
from coordinator.simulation.rounds import Simulation
step = Simulation.step
def dies(self, *given):
    if len(self.journal.records) == {no}:
        threading.Timer(0.01, os.kill, (os.getpid(), 9)).start()
    return step(self, *given)
Simulation.step = dies
main()
"""


def killed_in_round(no: int, rounds: int, run: Path, *arguments: str) -> None:
    """Runs `flash-coordinator` with these arguments until it is killed.

    Args:
        no: Round in which the kill comes, or one soon after it.
        rounds: How many the run has; it is not at its end.
        run: Its folder; the command is started in the one above.
    """
    line = [sys.executable, "-c", PROGRAM.format(no=no), *arguments]
    done = subprocess.run(line, cwd=run.parent, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    assert no <= len(read_records(run)) <= rounds
