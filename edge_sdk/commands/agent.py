"""An agent put together from a device's settings, and run within its owner's limits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edge_sdk.private_files import keep_private
from edge_sdk.settings import DeviceSettings, load_settings, profile_of
from edge_sdk.tasks.without_torch.halves import torch_is_here
from edge_sdk.terminal import log_from_now_on, on_stop

if TYPE_CHECKING:
    from device_profiles import DeviceProfile
    from edge_sdk.agent import Agent
    from edge_sdk.session import Session
    from edge_sdk.tasks.task import Examples, Task

__all__ = ["run"]

log = logging.getLogger(__name__)
REST_S = 60.0  # until a device without new data says again that it rests
AWAY_S = 10.0  # likewise, one that has no data yet and looks whether they are there
WINDOW = 64  # packets that wait here at a time; the rest waits at the broker


def run(
    settings: Annotated[Path, typer.Argument(help="The device's TOML file.")],
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when the run has ended.")
    ] = False,
) -> None:
    """Take part in a federation until stopped."""
    own = load_settings(settings, DeviceSettings)
    log_from_now_on(run=own.federation, device=own.name)
    keep_private(settings.parent, [settings.name], shut=False)
    keep_private(own.state, ["*"])
    agent = _agent(own, settings.parent)
    on_stop(agent.stop)
    try:
        with _restrained(profile_of(own.profile, settings.parent), own.niceness):
            agent.run(until_done=until_done)
    finally:
        agent.close()


@contextlib.contextmanager
def _restrained(profile: DeviceProfile, niceness: int) -> Iterator[None]:
    """Whatever else the board does comes first, and memory stays under its cap."""
    from edge_sdk.device.limits.memory import hold_to, ram_cap  # noqa: PLC0415 - late
    from edge_sdk.device.limits.processor import be_nice  # noqa: PLC0415 - late
    from edge_sdk.device.probe.ram import ceilings  # noqa: PLC0415

    be_nice(niceness)
    cap = ram_cap(profile.caps, ceilings())
    if cap is None:
        yield
        return
    with hold_to(cap):
        log.info("memory is capped at %d MiB", cap)
        yield


def _agent(settings: DeviceSettings, folder: Path) -> Agent:
    from edge_sdk.access import access_of  # noqa: PLC0415
    from edge_sdk.agent import Agent, Identity  # noqa: PLC0415
    from edge_sdk.commands.trainer import runner_of  # noqa: PLC0415
    from edge_sdk.datasets.growing.device_data import NOTHING_NEW, DeviceData  # noqa: PLC0415
    from edge_sdk.datasets.growing.keep import parse_keep  # noqa: PLC0415
    from edge_sdk.deploy.model_test import ModelTest  # noqa: PLC0415
    from edge_sdk.deploy.target import place_of  # noqa: PLC0415
    from edge_sdk.device.limits.decision import Pause  # noqa: PLC0415
    from edge_sdk.device.limits.enforcement import LimitsEnforcer, MemoryFallbackRunner  # noqa: PLC0415
    from edge_sdk.device.limits.processor import threads_for  # noqa: PLC0415
    from edge_sdk.device.probe.board import read_board  # noqa: PLC0415
    from edge_sdk.storage.journal import Journal  # noqa: PLC0415
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415
    from edge_sdk.training.program_engine.choice import why_torch_now  # noqa: PLC0415
    from edge_sdk.transport.mqtt import MqttTransport  # noqa: PLC0415

    address, device_keys = access_of(settings)
    profile = _with_runtime(profile_of(settings.profile, folder))
    cores, share = read_board().cores, profile.caps.cpu_share
    lent = threads_for(cores, share)
    threads = min(settings.threads or lent, lent) if share < 1.0 else settings.threads
    keep = parse_keep(settings.keep)
    task = load_task(settings.task, beside=folder)
    why = why_torch_now(task, settings.engine, settings.device, settings.state)
    late = torch_is_here() and not why
    if torch_is_here() and why:
        log.info("torch is imported at the start: %s", why)
    data = DeviceData(
        *(task, settings.data, settings.state),
        keep=keep,
        seed=int.from_bytes(settings.name.encode()[-8:], "little"),
        arrays=late,
        waits=True,
    )
    examples, journal = data.examples, Journal(settings.state)

    def rests() -> Pause | None:
        if lost := data.lost():
            return Pause(REST_S if len(data.examples) else AWAY_S, lost)
        sits_out = settings.when == "new-data" and not data.is_new(journal.accepted)
        return Pause(REST_S, NOTHING_NEW) if sits_out else None

    limits_enforcer = LimitsEnforcer(profile.caps, cores=cores, rests=rests)
    runner = runner_of(
        *(settings, profile, task, data, limits_enforcer.working_s),
        threads=threads,
        lent=lent,
        late=late,
    )
    tolerance, test = settings.models_tolerance, None
    if tolerance is not None:
        test = ModelTest(task, tolerance, lambda: runner.tester.examples.held_so_far())  # noqa: PLW0108 - replaced later
    identity = Identity(
        name=settings.name,
        federation=settings.federation,
        task=settings.task,
        examples=len(examples),
        profile=msgspec.to_builtins(profile),
        note=_without_kernels(settings.engine),
        count=lambda: len(data.examples),
        failing=lambda: data.failing,
        consent=settings.consent,
    )
    log_from_now_on(run=settings.federation, device=settings.name)
    log.info("%s: %d examples of task %s", settings.name, len(examples), task.name)
    if (late or not torch_is_here()) and len(examples):
        _say_unfit(settings.state, task, examples)
    return Agent(
        identity,
        lambda deliver, on_link, will: MqttTransport(
            address, settings.name, deliver, on_link, will=will, window=WINDOW
        ),
        journal,
        MemoryFallbackRunner(runner, data),
        device_keys=device_keys,
        limits_enforcer=limits_enforcer,
        place=place_of(settings, folder, test),
        on_phase=_say_phase,
    )


def _with_runtime(profile: DeviceProfile) -> DeviceProfile:
    """The profile; without torch, a process far smaller than the catalogue assumes."""
    if torch_is_here() or profile.runtime_mib is not None:
        return profile
    from device_profiles.memory import RUNTIME_WITHOUT_TORCH_MIB  # noqa: PLC0415 - late

    return msgspec.structs.replace(profile, runtime_mib=RUNTIME_WITHOUT_TORCH_MIB)


def _without_kernels(engine: str) -> str:
    """A warning for a device without native kernels; empty where it has them.

    A wheel of another processor, or a tree whose kernels vanished, trains all the same:
    only slower and larger, which nobody sees who is not told.
    """
    from edge_sdk.errors import EngineError, two_sentences  # noqa: PLC0415
    from edge_sdk.kernels.library import kernels  # noqa: PLC0415 - may compile them

    if engine == "masked" or not torch_is_here():
        return ""
    try:
        kernels()  # built first, where only a compiler is at hand
    except EngineError as error:
        note = "no native kernels here: it trains dense-masked"
        log.warning(
            "%s. A step takes the time and memory of the dense model, whatever the "
            "density, so the coordinator gives this device a lower one where they are "
            "short. %s",
            *(note, two_sentences(error, error.help)),
        )
        return note
    return ""


def _say_unfit(state: Path, task: Task, examples: Examples) -> None:
    """Names examples that the last order's model does not take, before the next."""
    from edge_sdk.errors import DataError, two_sentences  # noqa: PLC0415
    from edge_sdk.training.program_engine.kept import check_by_kept  # noqa: PLC0415

    try:
        check_by_kept(state, task, examples)
    except DataError as error:
        log.warning("%s", two_sentences(error, error.help))


def _say_phase(session: Session) -> None:
    no = session.order.round_no if session.order else None
    log_from_now_on(round=no)
    log.info("%s%s", session.phase.value, "" if no is None else f" round {no}")
