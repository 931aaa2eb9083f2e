"""Looks a run over before it starts: PASS, or a problem and its fix."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from coordinator.broker.check import check_broker
from coordinator.broker.command import Command
from coordinator.broker.config import kept_port
from coordinator.identity.broker_access import identities_for
from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import is_held, read_ledger
from coordinator.settings import RunSettings, load_run
from coordinator.views.page import parse_page
from edge_sdk.device.doctor import Check
from edge_sdk.device.probe.board import clock_complaint, free_disk_mib
from edge_sdk.errors import EdgeError
from edge_sdk.transport.address import parse_url
from edge_sdk.transport.trial import try_broker
from edge_sdk.wire.blob import AROUND, CHUNK_SIZE

__all__ = ["examine"]

# A ledger, its blobs and a checkpoint a round; of a small model, for a few hundred.
LEAST_DISK_MIB = 500
LEAST_PACKET = 4096  # bytes; below, neither a HELLO nor an order goes through
LIMIT_FIX = (
    "Raise its limit to 128 KiB: max_packet_size and message_size_limit of mosquitto, "
    "or the like."
)


def examine(folder: Path) -> tuple[Check, ...]:
    """Runs every check; none of them changes anything or starts a broker.

    Args:
        folder: The run's folder; its coordinator may run.
    """
    checks = [_clock(), _disk(folder)]
    try:
        settings = load_run(folder / "run.toml")
    except EdgeError as error:
        return (*checks, Check("settings", "problem", str(error), error.help))
    said = f"{settings.rounds} rounds of {settings.algorithm} at {settings.densities}"
    checks.append(Check("settings", "PASS", said))
    checks += [_asked(name, check, folder, settings) for name, check in CHECKS]
    return tuple(checks)


_Look: TypeAlias = Callable[[Path, RunSettings], Check]


def _asked(name: str, look: _Look, folder: Path, settings: RunSettings) -> Check:
    try:
        return look(folder, settings)
    except EdgeError as error:
        return Check(name, "problem", str(error), error.help)


def _clock() -> Check:
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    complaint = clock_complaint(today)
    if complaint:
        return Check("clock", "problem", complaint, "timedatectl set-ntp true")
    return Check("clock", "PASS", today.isoformat())


def _disk(folder: Path) -> Check:
    free = free_disk_mib(folder)
    if free < LEAST_DISK_MIB:
        said = f"{free} MiB free at {folder}, {LEAST_DISK_MIB} are needed"
        return Check("disk", "problem", said, "Free some space, or move the folder.")
    return Check("disk", "PASS", f"{free} MiB free")


def _task(folder: Path, settings: RunSettings) -> Check:
    if find_spec("torch") is None:
        fix = "pip install 'flash-edge[coordinator]'"
        return Check("task", "problem", "torch is not installed", fix)
    from coordinator.server.wiring import check_run  # noqa: PLC0415 - imports torch
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415

    task = load_task(settings.task, beside=folder)
    examples = check_run(settings, task)
    return Check("task", "PASS", f"{task.name}, evaluated on {len(examples)} examples")


def _ledger(folder: Path, settings: RunSettings) -> Check:
    if not (folder / "ledger.sqlite").exists():
        return Check("ledger", "skipped", "the run has not begun")
    ledger = read_ledger(folder)
    try:
        done, devices = ledger.rounds_done(), len(ledger.devices())
    finally:
        ledger.close()
    runs = "its coordinator runs" if is_held(folder) else "no coordinator runs"
    said = f"{done} of {settings.rounds} rounds done, {devices} devices known, {runs}"
    return Check("ledger", "PASS", said)


def _broker(folder: Path, settings: RunSettings) -> Check:
    if settings.broker:
        address = parse_url(settings.broker)
        if address.tls is not None:
            return Check("broker", "skipped", "asked through TLS when the run starts")
        check_broker(address)
        trial = try_broker(address, (LEAST_PACKET, CHUNK_SIZE + AROUND))
        if trial.stuck and (trial.stuck[0] == LEAST_PACKET or not trial.limited):
            said = f"it does not take a message of {trial.stuck[0]} bytes"
            return Check("broker", "problem", f"{address.url}: {said}", LIMIT_FIX)
        return Check("broker", "PASS", f"MQTT answers at {address.url}")
    if is_held(folder):
        return Check("broker", "skipped", "the coordinator runs one")
    command = Command.choose(None, folder)
    port = settings.port or kept_port(folder / "broker") or 0
    if port and _taken(settings.address, port):
        return Check(
            "broker",
            "problem",
            f"port {port} is taken by another program",
            "Stop that program, or set another `port` in run.toml.",
        )
    return Check("broker", "PASS", f"{command.kind}, on port {port or 'of its choice'}")


def _identities(folder: Path, settings: RunSettings) -> Check:
    if not IdentityRegistry.exists(folder):
        return Check("identities", "skipped", "no device was let in yet")
    identities = identities_for(folder, settings)
    if identities is None:
        return Check("identities", "skipped", "the run is in the clear")
    return Check("identities", "PASS", f"{len(identities.enrolled())} devices enrolled")


def _address(_: Path, settings: RunSettings) -> Check:
    try:
        found = socket.getaddrinfo(settings.address, None)[0][4][0]
    except OSError as error:
        return Check(
            "address",
            "problem",
            f"{settings.address} is no address: {error.strerror}",
            "Set `address` in run.toml to one of this machine.",
        )
    return Check("address", "PASS", f"devices connect to {settings.address} ({found})")


def _page(folder: Path, settings: RunSettings) -> Check:
    if not settings.page:
        return Check("page", "skipped", "none is asked for")
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        fix = "pip install 'flash-edge[coordinator]'"
        return Check("page", "problem", "its packages are not installed", fix)
    host, port = parse_page(settings.page)
    taken = port and not is_held(folder) and _taken(host, port)
    also = ", which is taken: it will take a free port" if taken else ""
    return Check("page", "PASS", f"{settings.page}{also}")


def _taken(host: str, port: int) -> bool:
    """Return whether another program listens on a port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


CHECKS: Sequence[tuple[str, _Look]] = (
    ("task", _task),
    ("ledger", _ledger),
    ("broker", _broker),
    ("identities", _identities),
    ("address", _address),
    ("page", _page),
)
