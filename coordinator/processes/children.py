"""Child processes of a demo: started apart from the terminal, stopped together."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from coordinator.processes import bound_child
from coordinator.processes.child_log import keep_small
from edge_sdk.child_process import child_module, standalone

__all__ = ["ChildProcess", "stop_all"]

MODULES = {
    "flash-edge": "edge_sdk.cli",
    "flash-coordinator": "coordinator.cli",
    "flash-export": "export.cli",
}


class ChildProcess:
    """One of our commands as a process, and how to start it again."""

    def __init__(self, command: str, arguments: list[str], log: Path | None) -> None:
        self.name = " ".join([command, *arguments])
        # Bound to us: were the demo killed, its processes would not outlive it.
        self._line = standalone(
            bound_child.__file__, str(os.getpid()), "",
            *child_module(MODULES[command], *arguments),
        )  # fmt: skip
        self._log = log
        self.starts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        # One BLAS thread each: eight devices on two cores only fight with more.
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        sink = None if self._log is None else self._log.open("ab")
        try:
            return subprocess.Popen(  # noqa: S603 - our own modules
                self._line,
                env={**os.environ, **quiet},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # a Ctrl-C reaches us alone; we pass it on
            )
        finally:
            if sink is not None:
                sink.close()

    def tend_log(self) -> None:
        """Keeps its log small; to be called now and then."""
        if self._log is not None:
            keep_small(self._log)

    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self.process.poll() is None

    def start_again(self) -> None:
        """Starts it once more, as a service manager would."""
        self.process = self._start()


def stop_all(children: list[ChildProcess], *, wait_s: float = 15.0) -> None:
    """Asks all to end, then makes them."""
    for child in children:
        if child.alive():
            child.process.terminate()
    until = time.monotonic() + wait_s
    for child in children:
        while child.alive() and time.monotonic() < until:
            time.sleep(0.05)
        if child.alive():
            child.process.kill()
        child.process.wait()
