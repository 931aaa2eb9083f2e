"""Commands as forks of one warm interpreter: torch is imported once, not by each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patience import patience

__all__ = ["Forked", "Zygote"]

LOOK_S = 0.02


class Zygote:
    """Starts commands as forks of one warm interpreter; see `chaos/zygote.py`.

    Args:
        modules: Imported before; empty for all that our commands import.
    """

    def __init__(self, *modules: str) -> None:
        program = Path(__file__).parent / "chaos" / "zygote.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program), *modules],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()  # tests poll from several threads
        self._answer()

    def spawn(self, **request: Any) -> int:
        """Starts a command; returns its process id."""
        return int(self._ask(request)["pid"])

    def poll(self, pid: int) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        found: int | None = self._ask({"poll": pid})["rc"]
        return found

    def close(self) -> None:
        """Kills everything it started that still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(patience(30))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


class Forked:
    """A command that was started so, with the methods of `subprocess.Popen`.

    Args:
        zygote: What starts it.
        module: Whose `main` it is; as by `python -m`, modules of `cwd` can be imported.
        arguments: Of the command.
        cwd: Its folder.
        log: Gets what it says, at its end.
        env: Its environment, in whole.
        errors: Gets what it says on stderr; None for the log.
    """

    def __init__(
        self,
        zygote: Zygote,
        module: str,
        arguments: tuple[str, ...],
        *,
        cwd: Path,
        log: Path,
        env: Mapping[str, str],
        errors: Path | None = None,
    ) -> None:
        self._zygote = zygote
        self.returncode: int | None = None
        self.pid = zygote.spawn(
            module=module,
            arguments=arguments,
            cwd=str(cwd),
            log=str(log),
            env=dict(env),
            **({} if errors is None else {"errors": str(errors)}),
        )

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.poll(self.pid)
        return self.returncode

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while (found := self.poll()) is None:
            time.sleep(LOOK_S)
        return found

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
