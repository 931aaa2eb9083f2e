"""The brokers that everything above must work on, each started as a real process.

`open_kind("rabbitmq", folder)` and its like give a broker with `host`, `port`, `pid`,
`restart()` and `close()`, whatever the kind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

import psutil
import pytest
from patience import patience, waited
from ports import free_port
from typing_extensions import Self

from coordinator.broker.check import check_broker
from coordinator.broker.config import find_mosquitto
from coordinator.broker.start import open_broker
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address

__all__ = ["KINDS", "AnyBroker", "Rabbit", "mosquitto", "open_kind", "require"]

KINDS = ("mosquitto", "embedded", "rabbitmq")
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # Debian's own needs a service
EPMD_S = 20.0  # for Erlang's name server to end
READY_S = 240.0  # Erlang takes 5 s on two idle cores and 80 s on busy ones

CONFIG = """\
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.allow_anonymous = true
mqtt.default_user = guest
mqtt.default_pass = guest
listeners.tcp = none
loopback_users = none
log.console = true
log.console.level = error
"""


class AnyBroker(Protocol):
    """What a test may do with a broker."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def pid(self) -> int | None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def require(kind: str) -> None:
    """Skips the test where a broker is not installed; CI insists."""
    if kind != "rabbitmq" or SCRIPT.exists():
        return
    if os.environ.get("FLASH_EDGE_REQUIRE_RABBITMQ"):
        pytest.fail("rabbitmq-server is not installed, and it is required here")
    pytest.skip("rabbitmq-server is not installed (make tools)")


def open_kind(kind: str, folder: Path) -> AnyBroker:
    """A broker of a kind, answering; use it as a context manager."""
    require(kind)
    if kind == "rabbitmq":
        return Rabbit()
    return open_broker(None, folder, kind=kind)  # type: ignore[arg-type]


@contextlib.contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[Address]:
    """mosquitto with a configuration of the test's own."""
    program = find_mosquitto()
    if program is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text("\n".join([f"listener {port} 127.0.0.1", "user root", *lines]))
    process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)
    try:
        assert waited(lambda: _listens(port), 20), f"no mosquitto on port {port}"
        yield Address("127.0.0.1", port)
    finally:
        process.kill()
        process.wait()


class Rabbit:
    """RabbitMQ with its MQTT plugin: its own node name, ports, user and folders."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        # Not pytest's folder: nobody but its owner can enter that.
        self._folder = Path(tempfile.mkdtemp(prefix="flash-edge-rabbit-"))
        self.port, self._dist, self._epmd = (free_port() for _ in range(3))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The broker's process, what a test kills; its parents are shell scripts."""
        if self._process is None:
            return None
        family = psutil.Process(self._process.pid).children(recursive=True)
        return next((p.pid for p in family if p.name().startswith("beam")), None)

    def restart(self) -> None:
        """Starts it, after a kill, with nothing of what it held."""
        self._stop()
        shutil.rmtree(self._folder / "mnesia", ignore_errors=True)
        (self._folder / "rabbitmq.conf").write_text(CONFIG.format(port=self.port))
        (self._folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        user = _unprivileged()
        if user:
            account = pwd.getpwnam(user)
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        with (self._folder / "said").open("ab") as said:
            self._process = subprocess.Popen(
                [SCRIPT],
                env=self._environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                user=user or None,
                group=(user and pwd.getpwnam(user).pw_gid) or None,
                extra_groups=[] if user else None,
            )
        began = time.monotonic()
        while True:
            try:
                check_broker(Address(self.host, self.port), timeout_s=2.0)
            except BrokerError:  # noqa: PERF203
                said = (self._folder / "said").read_text(errors="replace")[-2000:]
                assert self._process.poll() is None, f"RabbitMQ ended: {said}"
                late = time.monotonic() - began > patience(READY_S)
                assert not late, f"RabbitMQ is not ready: {said}"
                time.sleep(0.1)
            else:
                return

    def close(self) -> None:
        """Ends it and takes its folder away."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _environment(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            "PATH": os.environ["PATH"],
            "HOME": folder,  # of its cookie
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"flash-edge-{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_DIST_PORT": str(self._dist),
            # Its own name server: one of another user's would outlive us or clash.
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",  # no busy waiting
        }

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._end_epmd()

    def _end_epmd(self) -> None:
        """Ends Erlang's name server, which has made itself a daemon.

        It says no while a node is registered, and takes a moment to see one dead.
        """
        ended = waited(lambda: not self._told_to_end(), EPMD_S)
        assert ended, f"epmd on port {self._epmd} stays"

    def _told_to_end(self) -> bool:
        """Tells it to end; whether there was one to tell."""
        try:
            with socket.create_connection(
                ("127.0.0.1", self._epmd), timeout=patience(2)
            ) as link:
                link.sendall(b"\x00\x01k")  # EPMD's KILL_REQ
                link.recv(2)
        except ConnectionRefusedError:
            return False
        except OSError:  # it ends while we speak
            pass
        return True


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def _unprivileged() -> str:
    if os.geteuid() != 0:
        return ""
    for name in ("rabbitmq", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    return ""
