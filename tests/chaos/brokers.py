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
    if kind == "rabbitmq" and _program("rabbitmq-server") is None:
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
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it accepts connections."""
        with (self._folder / f"{self.kind}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._line(),
                env={**os.environ, **self._env()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def listens(self) -> bool:
        """Whether it accepts connections."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1),
        ):
            return True
        return False

    def wait(self, seconds: float = 60.0) -> None:
        """Waits until it accepts connections.

        Raises:
            TimeoutError: If it does not.
        """
        give_up = time.monotonic() + seconds
        while not self.listens():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.kind} does not listen on {self.port}")
            time.sleep(0.05)

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to it and all it started."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL: everything it held is lost."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def _line(self) -> list[str]:
        if self.kind == "embedded":
            module = "coordinator.embedded_broker"
            return [sys.executable, "-m", module, "127.0.0.1", str(self.port)]
        if self.kind == "rabbitmq":
            return [str(_program("rabbitmq-server"))]
        two = self.kind == "mosquitto-two"
        config = self._folder / "mosquitto.conf"
        queue, inflight = (2, 2) if two else (0, 64)
        config.write_text(
            MOSQUITTO.format(port=self.port, queue=queue, inflight=inflight)
        )
        return [str(_program("mosquitto")), "-c", str(config)]

    def _env(self) -> dict[str, str]:
        if self.kind != "rabbitmq":
            return {}
        folder = self._folder / "rabbitmq"
        folder.mkdir(exist_ok=True)
        (folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            amqp = probe.getsockname()[1]
        (folder / "rabbitmq.conf").write_text(
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
            "mqtt.allow_anonymous = true\nmqtt.default_user = guest\n"
            "mqtt.default_pass = guest\nloopback_users = none\n"
        )
        name = f"chaos-{self.port}@localhost"
        return {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(folder / "rabbit.log"),
            "RABBITMQ_DIST_PORT": str(amqp + 1 if amqp < 65000 else amqp - 1),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
