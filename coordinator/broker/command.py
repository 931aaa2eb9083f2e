"""Command line of a broker of our own: program, user, configuration."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import subprocess
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import IO, Literal, TypeAlias

from coordinator.broker.config import AccessControl, find_mosquitto, mosquitto_config
from coordinator.processes import bound_child
from edge_sdk.child_process import child_module, standalone
from edge_sdk.errors import BrokerError
from edge_sdk.private_files import private_file

__all__ = ["Command", "OwnKind"]

OwnKind: TypeAlias = Literal["mosquitto", "embedded"]


class Command:
    """Command that starts one kind of broker of our own, and its log file.

    Attributes:
        kind: Which broker.
        log: The file that takes what it says.
    """

    def __init__(self, kind: OwnKind, folder: Path, program: Path) -> None:
        self.kind = kind
        self._access_control: AccessControl | None = None
        self._folder = folder
        self._program = program
        self.log = folder / f"{kind}.log"

    @classmethod
    def choose(
        cls,
        kind: OwnKind | None,
        folder: Path,
        access_control: AccessControl | None = None,
    ) -> Command:
        """The better broker that is installed, or the one insisted on.

        The embedded one has neither client certificates bound to names nor access
        lists, so it is only for a federation of one machine.

        Raises:
            BrokerError: It is not installed, or none is.
        """
        missing = []
        if kind != "embedded":
            program = find_mosquitto()
            if program is not None:
                command = cls("mosquitto", folder, program)
                command._access_control = access_control
                return command
            missing.append("mosquitto is not installed")
        if access_control is not None:
            raise BrokerError(
                "a broker with certificates and access lists has to be mosquitto, "
                "which is not installed; the embedded one has neither",
                remedy="apt-get install mosquitto; or, for one machine only, set "
                "insecure = true.",
            )
        if kind != "mosquitto":
            if importlib.util.find_spec("amqtt") is not None:
                return cls("embedded", folder, Path())
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
            with ExitStack() as stack:
                files = {}
                for field, path in self._write_access_control().items():
                    files[field] = stack.enter_context(path.open("rb")).fileno()
                names = {field: f"/dev/fd/{number}" for field, number in files.items()}
                self._for_the_broker(
                    config, mosquitto_config(host, port, names or None).encode()
                )
                given = stack.enter_context(config.open("rb"))
                log = stack.enter_context(self.log.open("ab"))
                return self._spawn(host, port, given, log, tuple(files.values()))
        except OSError as error:
            raise BrokerError(f"{self.kind} cannot be started: {error}") from error

    def put_access_control(self, access_control: AccessControl) -> None:
        """Write the access control that the broker reads at a start or a reload.

        Raises:
            BrokerError: The folder cannot be written.
        """
        self._access_control = access_control
        try:
            self._write_access_control()
        except OSError as error:
            raise BrokerError(f"{self._folder} cannot be written: {error}") from error

    def _write_access_control(self) -> dict[str, Path]:
        """Each field as a file that only the broker's user may read; field to its path.

        Rewritten in place: a running broker holds the file, not its name. It is small,
        and whoever dies in the middle takes the broker with him.
        """
        if self._access_control is None:
            return {}
        paths = {}
        for field in fields(self._access_control):
            path = self._folder / f"broker.{field.name}"
            self._for_the_broker(path, getattr(self._access_control, field.name))
            paths[field.name] = path
        return paths

    def _for_the_broker(self, path: Path, content: bytes) -> None:
        """A file that the broker's user may read, and nobody else but root."""
        private_file(path)
        path.chmod(0o600)
        path.write_bytes(content)
        user = _unprivileged() if self.kind == "mosquitto" else ""
        if user:
            account = pwd.getpwnam(user)
            os.chown(path, account.pw_uid, account.pw_gid)

    def _spawn(
        self,
        host: str,
        port: int,
        given: IO[bytes],
        log: IO[bytes],
        files: tuple[int, ...],
    ) -> subprocess.Popen[bytes]:
        if self.kind == "mosquitto":
            user = _unprivileged()
            command = [str(self._program), "-c", "/dev/stdin"]
        else:
            user = ""  # an interpreter under root's home is closed to others
            command = child_module("coordinator.broker.embedded", host, str(port))
        wrapper = Path(bound_child.__file__)
        prefix = standalone(wrapper, str(os.getpid()), user)
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            prefix + command,
            stdin=given,
            pass_fds=files,
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
