"""Looks a run over before it starts: PASS, or a problem and its fix."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path

from coordinator.broker.check import check_broker
from coordinator.broker.command import Command
from coordinator.broker.config import kept_port
from coordinator.broker.start import why_taken
from coordinator.identity.broker_access import address_of_user, identities_for
from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import is_held, read_ledger
from coordinator.settings import RunSettings, load_run
from coordinator.views.page import parse_page
from edge_sdk.device.doctor import Check, DoctorTarget, Skipped, board, check_of
from edge_sdk.device.probe.board import free_disk_mib
from edge_sdk.errors import EdgeError
from edge_sdk.transport.trial import measure_broker, try_broker
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
    checks = [board.clock(DoctorTarget()), _disk(folder)]
    try:
        settings = load_run(folder / "run.toml")
    except EdgeError as error:
        return (*checks, Check("settings", "problem", str(error), error.help))
    rounds = f"{settings.rounds} rounds" if settings.rounds else "rounds without end"
    said = f"{rounds} of {settings.algorithm} at {settings.densities}"
    checks.append(Check("settings", "PASS", said))
    of_run = (_task, _ledger, _broker, _limits, _identities, _address, _page)
    return (*checks, *(check(folder, settings) for check in of_run))


@check_of("disk")
def _disk(folder: Path) -> str:
    free = free_disk_mib(folder)
    if free < LEAST_DISK_MIB:
        said = f"{free} MiB free at {folder}, {LEAST_DISK_MIB} are needed"
        raise EdgeError(said, remedy="Free some space, or move the folder.")
    return f"{free} MiB free"


@check_of("task")
def _task(folder: Path, settings: RunSettings) -> str:
    if find_spec("torch") is None:
        fix = "pip install 'flash-edge[coordinator]'"
        raise EdgeError("torch is not installed", remedy=fix)
    from coordinator.server.wiring import check_run  # noqa: PLC0415
    from edge_sdk.tasks.parts.run_task import run_task  # noqa: PLC0415 - imports torch
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415

    task = run_task(load_task(settings.task, beside=folder), settings)
    examples = check_run(settings, task)
    here = "" if examples is None else f"{len(examples)} examples"
    devices = "the devices" if settings.holdout else ""
    where = " and ".join(filter(None, (here, devices)))
    return f"{task.name}, evaluated on {where or 'nothing'}"


@check_of("ledger")
def _ledger(folder: Path, settings: RunSettings) -> str:
    if not (folder / "ledger.sqlite").exists():
        return Skipped("the run has not begun")
    ledger = read_ledger(folder)
    try:
        done, devices = ledger.rounds_done(), len(ledger.devices())
    finally:
        ledger.close()
    runs = "its coordinator runs" if is_held(folder) else "no coordinator runs"
    wanted = f" of {settings.rounds}" if settings.rounds else ""
    return f"{done}{wanted} rounds done, {devices} devices known, {runs}"


@check_of("broker")
def _broker(folder: Path, settings: RunSettings) -> str:
    if settings.broker:
        address = address_of_user(settings)
        check_broker(address)
        trial = try_broker(address, (LEAST_PACKET, CHUNK_SIZE + AROUND))
        if trial.stuck and (trial.stuck[0] == LEAST_PACKET or not trial.limited):
            said = f"it does not take a message of {trial.stuck[0]} bytes"
            raise EdgeError(f"{address.url}: {said}", remedy=LIMIT_FIX)
        return f"MQTT answers at {address.url}"
    if is_held(folder):
        return Skipped("the coordinator runs one")
    command = Command.choose(None, folder)
    port = settings.port or kept_port(folder / "broker") or 0
    if port and why_taken(settings.address, port):
        raise EdgeError(
            f"port {port} is taken by another program",
            remedy="Stop that program, or set another `port` in run.toml.",
        )
    return f"{command.kind}, on port {port or 'of its choice'}"


@check_of("broker limits")
def _limits(_: Path, settings: RunSettings) -> str:
    """Figures of the user's broker, measured; a problem where no run would work."""
    if not settings.broker:
        return Skipped("the coordinator starts a broker of its own")
    found = measure_broker(address_of_user(settings))
    if found.latency_ms is not None and not found.wildcards:
        raise EdgeError(
            f"{found}: a coordinator hears its devices by topic filters with +",
            remedy="Allow wildcard subscriptions, or take another broker.",
        )
    return str(found)


@check_of("identities")
def _identities(folder: Path, settings: RunSettings) -> str:
    if not IdentityRegistry.exists(folder):
        return Skipped("no device was let in yet")
    identities = identities_for(folder, settings)
    if identities is None:
        return Skipped("the run is in the clear")
    return f"{len(identities.enrolled())} devices enrolled"


@check_of("address")
def _address(_: Path, settings: RunSettings) -> str:
    try:
        found = socket.getaddrinfo(settings.address, None)[0][4][0]
    except OSError as error:
        raise EdgeError(
            f"{settings.address} is no address: {error.strerror}",
            remedy="Set `address` in run.toml to one of this machine.",
        ) from error
    return f"devices connect to {settings.address} ({found})"


@check_of("page")
def _page(folder: Path, settings: RunSettings) -> str:
    if not settings.page:
        return Skipped("none is asked for")
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        fix = "pip install 'flash-edge[coordinator]'"
        raise EdgeError("its packages are not installed", remedy=fix)
    host, port = parse_page(settings.page)
    taken = port and not is_held(folder) and why_taken(host, port)
    also = ", which is taken: it will take a free port" if taken else ""
    return f"{settings.page}{also}"
