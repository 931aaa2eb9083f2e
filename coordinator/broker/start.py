"""The broker of a federation: the user's, else mosquitto, else the embedded one."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import SystemRandom
from typing import Literal, TypeAlias, final

from coordinator.broker.check import check_broker
from coordinator.broker.command import Command, OwnKind
from coordinator.broker.config import AccessControl, keep_port, kept_port
from coordinator.processes.child_log import keep_small
from edge_sdk.errors import BrokerError
from edge_sdk.private_files import make_private
from edge_sdk.transport.address import Address, Tls, parse_url

__all__ = ["Broker", "Kind", "free_port", "open_broker", "why_taken"]

Kind: TypeAlias = Literal["user", "mosquitto", "embedded"]

# mosquitto answers after 0.03-0.14 s and amqtt after 0.6 s on a server core; a Pi Zero
# importing Python from a card needs twenty times that.
READY_S = 20.0
RETRY_S = 0.02
# A broker that has just been killed may hold its port a moment longer.
PORT_WAIT_S = 3.0
FIRST_PORT, PORT_TRIES = 20_000, 100
CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
STOP_S = 3.0


def open_broker(
    theirs: str | Address | None,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    kind: OwnKind | None = None,
    access_control: AccessControl | None = None,
    tls: Tls | None = None,
    ask: bool = True,
) -> Broker:
    """The broker of a federation, answering; use it as a context manager.

    A broker of the user's is asked and nothing is started. Without, one of our own
    is started as a child that dies with this process: mosquitto if it is
    installed, else the embedded one. It keeps its port across restarts.

    Args:
        theirs: The user's, or its URL; None to start one.
        folder: Where config, log and the port are kept.
        host: Address our own broker listens on.
        port: Its port; None for the one it had before, or a free one at first.
        kind: Insist on one of our own brokers; None takes the better one.
        access_control: Whom our own lets in, and to what; None lets anybody in.
        tls: How to speak to our own with access control, or to the user's URL.
        ask: Whether the user's has to answer now; its address is looked at either way.

    Raises:
        BrokerError: The user's does not answer, or none can be started.
    """
    if theirs is not None:
        address = parse_url(theirs, tls) if isinstance(theirs, str) else theirs
        address.context()  # files that cannot be used are named now
        if ask:
            check_broker(address)
        return Broker("user", address)
    command = Command.choose(kind, folder, access_control)
    try:
        make_private(folder)
    except OSError as error:
        raise BrokerError(
            f"the broker's folder {folder} cannot be made: {error.strerror}"
        ) from error
    port = port or kept_port(folder) or free_port(host)
    address = Address(
        _reachable(host), port, tls=None if access_control is None else tls
    )
    broker = Broker(command.kind, address, command, host)
    broker.restart()
    keep_port(folder, port)
    return broker


@final
class Broker:
    """A broker that answers; made by `open_broker`, closed as a context manager.

    Attributes:
        kind: Whose it is.
        address: Where to connect, and as whom.
    """

    def __init__(
        self,
        kind: Kind,
        address: Address,
        command: Command | None = None,
        bind: str = "",
    ) -> None:
        self.kind = kind
        self.address = address
        self._command = command
        self._bind = bind
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel sends the death signal when the *thread* that started the child
        # ends, so the child is started from one that lives as long as we do.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="broker-keeper")

    @property
    def url(self) -> str:
        """``mqtt://host:port`` to connect to, without a password."""
        return self.address.url

    @property
    def host(self) -> str:
        """Host to connect to."""
        return self.address.host

    @property
    def port(self) -> int:
        """TCP port to connect to."""
        return self.address.port

    @property
    def pid(self) -> int | None:
        """Process id of our own broker; None for the user's."""
        return None if self._process is None else self._process.pid

    def alive(self) -> bool:
        """Return whether our own process runs, or the user's broker answers now."""
        if self._process is not None:
            return self._process.poll() is None
        if self._command is not None:
            return False
        try:
            check_broker(self.address, timeout_s=2.0)
        except BrokerError:
            return False
        return True

    def restart(self) -> None:
        """Stops our own broker if it runs, and starts it on the same port.

        The user's broker is not ours to restart: it is only asked again.

        Raises:
            BrokerError: It does not answer.
        """
        if self._command is None:
            check_broker(self.address)
            return
        self._stop()
        _wait_for_port(self._bind, self.port)
        command = self._command
        self._process = self._keeper.submit(
            command.start, self._bind, self.port
        ).result()
        try:
            self._await_ready(command)
        except BaseException:
            self._stop()
            raise

    def tend_log(self) -> None:
        """Keeps the log of our own broker small; to be called now and then.

        Whoever can reach its port adds a line with each connection that fails.
        """
        if self._command is not None:
            keep_small(self._command.log)

    def put_access_control(self, access_control: AccessControl) -> None:
        """Our own broker checks its clients by these from now on, without a restart.

        Links that are open stay open, but their rights are looked up anew.

        Raises:
            BrokerError: The folder cannot be written.
        """
        if self._command is not None:
            self._command.put_access_control(access_control)
            if self._process is not None:
                self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Stops our own broker; leaves the user's alone. May be called twice."""
        self._stop()
        self._keeper.shutdown()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_ready(self, command: Command) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - only called after a start
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(RETRY_S)
                said = command.last_words()
                raise BrokerError(f"{command.kind} stopped at once: {said}")
            try:
                check_broker(self.address, timeout_s=2.0)
            except BrokerError as error:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"{command.kind} runs but does not answer at {self.url} "
                        f"after {READY_S:.0f} s: {command.last_words()}"
                    ) from error
            else:
                return

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def free_port(host: str) -> int:
    """A TCP port of an address that nobody listens on, and that no client is given.

    A run keeps its port and its devices know it. One of those that the system hands
    out could be a client's whenever the broker is started again.
    """
    own = range(FIRST_PORT, _first_of_clients())
    for port in SystemRandom().sample(own, min(PORT_TRIES, len(own))):
        if why_taken(host, port) is None:
            return port
    with _listener(host, 0) as taken:
        return int(taken.getsockname()[1])


def _first_of_clients() -> int:
    """The lowest port that this system gives to clients; only Linux says it."""
    with contextlib.suppress(OSError, ValueError):
        return int(CLIENT_PORTS.read_text("ascii").split()[0])
    return 32_768


def _wait_for_port(host: str, port: int) -> None:
    # Without this, a stranger's broker on the port would pass for ours.
    deadline = time.monotonic() + PORT_WAIT_S
    while (error := why_taken(host, port)) is not None:
        if time.monotonic() > deadline:
            raise BrokerError(
                f"port {port} on {host or 'all addresses'} cannot be used for the "
                f"broker: {error.strerror}",
                remedy="Stop what listens there, or name another port.",
            ) from error
        time.sleep(RETRY_S)


def why_taken(host: str, port: int) -> OSError | None:
    """The error of who would listen on a port; None if it is free."""
    try:
        _listener(host, port).close()
    except OSError as error:
        return error
    return None


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        # As brokers do: a port whose last connections still linger is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener
