"""How a broker of our own is started: which program, as whom, with what."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import IO, Literal, TypeAlias

from coordinator.broker_config import find_mosquitto, mosquitto_config
from edge_sdk.errors import BrokerError

__all__ = ["Command", "OwnKind"]

OwnKind: TypeAlias = Literal["mosquitto", "embedded"]


class Command:
    """How to start one kind of broker of our own, and where it writes.

    Attributes:
        kind: Which broker.
        log: The file that takes what it says.
    """

    def __init__(self, kind: OwnKind, folder: Path, program: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._program = program
        self.log = folder / f"{kind}.log"

    @classmethod
    def choose(cls, kind: OwnKind | None, folder: Path) -> Command:
        """The better broker that is installed, or the one insisted on.

        Raises:
            BrokerError: It is not installed, or none is.
        """
        missing = []
        if kind != "embedded":
            program = find_mosquitto()
            if program is not None:
                return cls("mosquitto", folder, program)
            missing.append("mosquitto is not installed")
        if kind != "mosquitto":
            if importlib.util.find_spec("amqtt") is not None:
                return cls("embedded", folder, Path(sys.executable))
            missing.append("the Python package amqtt is not installed")
        raise BrokerError(f"no MQTT broker can be started: {' and '.join(missing)}")

    def start(self, host: str, port: int) -> subprocess.Popen[bytes]:
        """The process, started but perhaps not ready.

        The config comes in as standard input, opened by us: a broker that drops
        root's rights need not be able to enter the folder.

        Raises:
            BrokerError: The program or the folder cannot be used.
        """
        config = self._folder / "mosquitto.conf"
        try:
            config.write_text(mosquitto_config(host, port))
            config.chmod(0o644)
            with config.open("rb") as given, self.log.open("ab") as log:
                return self._spawn(host, port, given, log)
        except OSError as error:
            raise BrokerError(f"{self.kind} cannot be started: {error}") from error

    def _spawn(
        self, host: str, port: int, given: IO[bytes], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        if self.kind == "mosquitto":
            user = _unprivileged()
            command = [str(self._program), "-c", "/dev/stdin"]
        else:
            user = ""  # an interpreter under root's home is closed to others
            module = "coordinator.embedded_broker"
            command = [str(self._program), "-m", module, host, str(port)]
        wrapper = str(Path(__file__).with_name("bound_child.py"))
        prefix = [sys.executable, "-I", "-S", wrapper, str(os.getpid()), user]
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            prefix + command,
            stdin=given,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we then close it in order
        )

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{' | '.join(lines[-3:]) or 'it said nothing'} (log: {self.log})"


def _unprivileged() -> str:
    """The user for mosquitto when we are root; empty when we are nobody special."""
    if os.geteuid() != 0:
        return ""
    for name in ("mosquitto", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    return ""
