"""Brokers that can be killed and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from brokers import SCRIPT, Rabbit
from patience import patience, waited
from ports import free_port

__all__ = ["BROKERS", "Broker", "missing"]

BROKERS = ("mosquitto", "mosquitto-two", "embedded", "rabbitmq")
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
user root
max_queued_messages {queue}
max_inflight_messages {inflight}
set_tcp_nodelay true
log_dest stderr
"""


def missing(kind: str) -> str:
    """Why a broker cannot be had here; empty if it can."""
    if kind.startswith("mosquitto") and _program("mosquitto") is None:
        return "mosquitto is not installed"
    if kind == "rabbitmq" and not SCRIPT.exists():
        return "rabbitmq-server is not installed"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Broker:
    """One broker on 127.0.0.1; "mosquitto-two" queues two messages and drops the rest.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self._folder = kind, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._rabbit = Rabbit() if kind == "rabbitmq" else None
        if self._rabbit is not None:
            self.port = self._rabbit.port
            return
        self.port = free_port()

    def start(self) -> None:
        """Starts it; `wait` tells when it accepts connections."""
        if self._rabbit is not None:
            if not self.alive():
                self._rabbit.restart()  # some seconds of Erlang
            return
        with (self._folder / f"{self.kind}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._line(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def listens(self) -> bool:
        """Whether it accepts connections."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=patience(1)),
        ):
            return True
        return False

    def wait(self, seconds: float = 60.0) -> None:
        """Waits until it accepts connections.

        Raises:
            TimeoutError: If it does not.
        """
        if not waited(self.listens, seconds):
            raise TimeoutError(f"{self.kind} does not listen on {self.port}")

    def alive(self) -> bool:
        """Whether its process runs."""
        if self._rabbit is not None:
            return self._rabbit.pid is not None
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to it and all it started."""
        if self._rabbit is not None:
            if self._rabbit.pid is not None:
                os.kill(self._rabbit.pid, number)
            return
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL: everything it held is lost."""
        self.signal(signal.SIGKILL)
        while self._rabbit is not None and self.alive():
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait()

    def _line(self) -> list[str]:
        if self.kind == "embedded":
            module = "coordinator.broker.embedded"
            return [sys.executable, "-m", module, "127.0.0.1", str(self.port)]
        two = self.kind == "mosquitto-two"
        config = self._folder / "mosquitto.conf"
        queue, inflight = (2, 2) if two else (0, 64)
        config.write_text(
            MOSQUITTO.format(port=self.port, queue=queue, inflight=inflight)
        )
        return [str(_program("mosquitto")), "-c", str(config)]

    def close(self) -> None:
        """Kills it for good."""
        self.kill()
        if self._rabbit is not None:
            self._rabbit.close()
