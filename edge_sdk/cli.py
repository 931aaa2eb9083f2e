"""`flash-edge`: the command that a device runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from device_profiles import ProfileError, boards, load_board, load_profile
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import (
    CheckpointError,
    DependencyError,
    IdentityError,
    SettingsError,
)
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.terminal import on_stop, run_app, set_up_logging

if TYPE_CHECKING:
    from device_profiles import DeviceProfile
    from edge_sdk.agent import Agent
    from edge_sdk.models.task import Examples, Task
    from edge_sdk.service import Service
    from edge_sdk.session import Session
    from edge_sdk.training.runner import MicroBatch

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train a sparse model on this device, as part of a federation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
service = typer.Typer(help="Run the agent as a systemd service.", no_args_is_help=True)
app.add_typer(service, name="service")
log = logging.getLogger(__name__)
ServiceFile = Annotated[Path, typer.Argument(help="The device's TOML file.")]
WINDOW = 64  # packets that wait here at a time; the rest waits at the broker
# Predicted memory was within 15 % of what was measured on most networks; a ceiling has
# to hold all the same. See docs/devices.md.
_FORESIGHT = 0.85
Key = Annotated[
    Path | None, typer.Option(help="Public key (PEM) that must have signed the bundle.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say more; show tracebacks.")]


@app.callback()
def _root() -> None:
    """Train a sparse model on this device, as part of a federation."""


@app.command()
def run(
    settings: Annotated[Path, typer.Argument(help="The device's TOML file.")],
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when the run has ended.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Take part in a federation until stopped."""
    set_up_logging(verbose=verbose)
    own = load_settings(settings, DeviceSettings)
    agent = _agent(own, settings.parent)
    on_stop(agent.stop)
    try:
        with _restrained(profile_of(own.profile, settings.parent)):
            agent.run(until_done=until_done)
    finally:
        agent.close()


@app.command()
def enroll(
    token: Annotated[str, typer.Argument(help="The token that the operator gave.")],
    folder: Annotated[
        Path, typer.Option(help="Folder of this device: identity, settings, state.")
    ] = Path(),
    data: Annotated[
        Path | None, typer.Option(help="Folder with this device's private examples.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="A board of `flash-edge boards`, or a profile TOML.")
    ] = "",
) -> None:
    """Make this device's keys, have them certified, and write its device.toml."""
    from edge_sdk.identity.enroll import enroll as enroll_device  # noqa: PLC0415
    from edge_sdk.identity.enroll import settings_text  # noqa: PLC0415
    from edge_sdk.identity.token import read_token  # noqa: PLC0415
    from edge_sdk.probe.board import likely_board, read_board  # noqa: PLC0415

    path = folder / "device.toml"
    if path.exists():
        raise SettingsError(
            f"{path} exists already", remedy="Name another --folder, or move it away."
        )
    answer = enroll_device(read_token(token), folder / "identity")
    text = settings_text(
        answer,
        identity="identity",
        data=str(data.expanduser().resolve()) if data else "data",
        state="state",
        profile=profile or likely_board(read_board()),
    )
    try:
        replace_file(path, text.encode())
    except CheckpointError as error:
        raise SettingsError(str(error), remedy=error.help) from error
    (folder / "state").mkdir(exist_ok=True)  # the service may write it, not make it
    typer.echo(
        f"{answer.name} is enrolled in {answer.federation}; wrote {path}\n"
        f"start with: flash-edge run {path}"
    )


@app.command()
def profile(
    settings: Annotated[Path, typer.Argument(help="The device's TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default in the state folder.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds to spend measuring.", min=5)
    ] = 45.0,
    density: Annotated[
        list[float] | None, typer.Option(help="A density to train at; repeat for more.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Measure this board with the settings' own task, and write its profile."""
    set_up_logging(verbose=verbose)
    _require_torch()
    from edge_sdk.models.task import load_task  # noqa: PLC0415 - imports torch
    from edge_sdk.probe.report import default_path, write_profile  # noqa: PLC0415
    from edge_sdk.probe.run import probe  # noqa: PLC0415

    own = load_settings(settings, DeviceSettings)
    task = load_task(own.task)
    found = probe(
        task,
        task.train_data(own.data),
        engine=own.engine,
        densities=density or (0.05, 0.2),
        broker_url=own.broker,
        seconds=seconds,
        progress=lambda share, what: log.info("%3.0f %%  %s", 100 * share, what),
        folder=own.state,
    )
    path = out or default_path(own.state)
    write_profile(path, found)
    typer.echo(f"wrote {path}; use it with: profile = {str(path)!r}")


@app.command()
def doctor(
    settings: Annotated[
        Path | None, typer.Argument(help="The device's TOML file, to check its broker.")
    ] = None,
) -> None:
    """Say what is well on this board and what to mend; exit code 1 if anything."""
    from edge_sdk.access import tls_of  # noqa: PLC0415
    from edge_sdk.doctor import Patient, examine, render  # noqa: PLC0415

    patient = Patient()
    if settings is not None:
        own = load_settings(settings, DeviceSettings)
        try:
            tls = tls_of(own)
        except IdentityError:  # the patient's complaint; it is named below
            tls = None
        patient = Patient(
            broker_url=own.broker, tls=tls, identity=own.identity, state=own.state
        )
    checks = examine(patient)
    typer.echo(render(checks))
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


@service.command()
def install(settings: ServiceFile = Path("device.toml")) -> None:
    """Write the hardened systemd unit of this device; needs root."""
    from edge_sdk.service import install_service  # noqa: PLC0415

    path, commands = install_service(_unit(settings))
    typer.echo(f"wrote {path}; start it with: {commands}")


@service.command()
def show(settings: ServiceFile = Path("device.toml")) -> None:
    """Print the unit that `install` would write."""
    from edge_sdk.service import unit_text  # noqa: PLC0415

    typer.echo(unit_text(_unit(settings)))


def _unit(settings: Path) -> Service:
    """The unit's facts: the owner's caps become its walls."""
    from edge_sdk.probe.board import read_board  # noqa: PLC0415
    from edge_sdk.service import this_service  # noqa: PLC0415

    own = load_settings(settings, DeviceSettings)
    caps = profile_of(own.profile, settings.parent).caps
    return this_service(
        settings,
        own.state,
        own.data,
        own.identity,
        ram_mib=caps.ram_mib,
        cpu_share=caps.cpu_share,
        cores=read_board().cores,
        gpu=Path("/etc/nv_tegra_release").exists(),
    )


@app.command()
def bundle(
    folder: Annotated[Path, typer.Argument(help="Folder to collect the wheels in.")],
    python: Annotated[str, typer.Option(help="The device's Python.")] = "3.11",
    platform: Annotated[str, typer.Option(help="aarch64 or x86_64.")] = "aarch64",
    wheel: Annotated[
        Path | None, typer.Option(help="flash-edge's own wheel, if not on an index.")
    ] = None,
) -> None:
    """Collect every wheel that a device without internet needs."""
    from edge_sdk.bundle import make_bundle  # noqa: PLC0415

    if platform not in ("aarch64", "x86_64"):
        raise SettingsError(
            f"--platform {platform!r} is neither aarch64 nor x86_64",
            remedy="32-bit boards have no wheels of numpy or torch.",
        )
    made = make_bundle(
        folder,
        platform="aarch64" if platform == "aarch64" else "x86_64",
        python=python,
        own_wheel=wheel,
    )
    typer.echo(str(made))


@app.command()
def infer(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    given: Annotated[Path, typer.Option("--input", help="A .npy, .npz or image file.")],
    threads: Annotated[int, typer.Option(min=1, max=256)] = 1,
    key: Key = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list of outputs per example.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run a bundle's model on examples and print the largest output of each."""
    set_up_logging(verbose=verbose)
    from edge_sdk.infer import Bundle  # noqa: PLC0415 - may compile the runtime
    from edge_sdk.infer.prepare import read_examples  # noqa: PLC0415

    model = Bundle(folder, threads=threads, trusted=_public_key(key))
    for outputs in model.predict(read_examples(given, model.preparation)):
        if as_json:
            typer.echo(json.dumps(outputs.tolist()))
            continue
        top = int(outputs.reshape(-1).argmax())
        label = model.labels[top] if top < len(model.labels) else str(top)
        typer.echo(f"{label}\t{outputs.reshape(-1)[top]:.6g}")


model_app = typer.Typer(help="The two model slots of this board.", no_args_is_help=True)
app.add_typer(model_app, name="model")
Root = Annotated[Path, typer.Argument(help="Folder of the two slots.")]


@model_app.command("status")
def model_status(root: Root) -> None:
    """Say which model is live and which one waits."""
    from edge_sdk.slots import look  # noqa: PLC0415

    slots = look(root)
    for name, task in slots.tasks.items():
        typer.echo(f"{name}: {task}{' (live)' if name == slots.live else ''}")
    if not slots.tasks:
        typer.echo(f"{root} holds no model")


@model_app.command("switch")
def model_switch(
    root: Root,
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The next model.")],
    health: Annotated[
        str, typer.Option(help="Command run after the switch; its failure undoes it.")
    ] = "",
    key: Key = None,
    verbose: Verbose = False,
) -> None:
    """Check BUNDLE on this board and make it live, or leave all as it was."""
    set_up_logging(verbose=verbose)
    from edge_sdk.slots import switch  # noqa: PLC0415

    slot = switch(root, folder, trusted=_public_key(key), health=shlex.split(health))
    typer.echo(f"live: {root / 'current'} -> {slot}")


@model_app.command("rollback")
def model_rollback(root: Root, verbose: Verbose = False) -> None:
    """Make the model before this one live again."""
    set_up_logging(verbose=verbose)
    from edge_sdk.slots import roll_back  # noqa: PLC0415

    typer.echo(f"live: {root / 'current'} -> {roll_back(root)}")


def _public_key(path: Path | None) -> bytes | None:
    from edge_sdk.infer.signature import read_public_key  # noqa: PLC0415

    return None if path is None else read_public_key(path)


@app.command("boards")
def list_boards() -> None:
    """List the boards of the catalogue."""
    for name in boards():
        typer.echo(name)


def profile_of(reference: str, folder: Path) -> DeviceProfile:
    """The profile a setting names: a board, or a TOML file as seen from a folder.

    Raises:
        SettingsError: If there is none, or it holds something impossible.
    """
    try:
        if reference.endswith(".toml"):
            return load_profile(folder / Path(reference).expanduser())
        return load_board(reference)
    except ProfileError as error:
        raise SettingsError(str(error), remedy=error.help) from error


def micro_batch_of(
    settings: DeviceSettings, profile: DeviceProfile, task: Task, examples: Examples
) -> int | MicroBatch:
    """What the settings say, or what fits under the memory that the owner allows.

    ``auto`` splits only where the update stays the same: a model with batch norm trains
    whole batches unless the settings accept `ghost_norm`, and one log line says so. The
    coordinator has chosen a density whose whole batch should fit.
    """
    ceiling = profile.caps.ram_mib
    if settings.micro_batch != "auto":
        return settings.micro_batch
    if ceiling is None:
        return 0
    from edge_sdk.governor import micro_batch  # noqa: PLC0415 - late, like torch
    from edge_sdk.models.cost import workload_of  # noqa: PLC0415 - imports torch
    from edge_sdk.training.accumulate import coupling_layer  # noqa: PLC0415 - torch

    layer = None if settings.ghost_norm else coupling_layer(task.model())
    if layer is not None:
        log.info(
            "batches stay whole under caps.ram_mib: batch norm (layer %s) sees all of "
            "them; ghost_norm = true allows to split",
            layer,
        )
        return 0
    load = workload_of(
        task,
        examples=len(examples),
        epochs=1,
        batch=task.batch_size,
        input_bytes=examples.inputs[0].nbytes,
    )

    def fits(
        density: float, engine: Literal["sparse", "masked"], batch: int
    ) -> int | None:
        return micro_batch(
            dataclasses.replace(load, batch=batch),
            density,
            engine,
            ram_mib=_FORESIGHT * ceiling,
            runtime_mib=profile.runtime_mib,
        )

    return fits


def _require_torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            "torch is not installed: pip install 'flash-edge[device]'"
        ) from error


@contextlib.contextmanager
def _restrained(profile: DeviceProfile) -> Iterator[None]:
    """Whatever else the board does comes first, and memory stays under its cap."""
    from edge_sdk.governor import be_nice, hold_to, ram_cap  # noqa: PLC0415 - late
    from edge_sdk.probe.ram import ceilings  # noqa: PLC0415

    be_nice()
    cap = ram_cap(profile.caps, ceilings())
    if cap is None:
        yield
        return
    with hold_to(cap):
        log.info("memory is capped at %d MiB", cap)
        yield


def _agent(settings: DeviceSettings, folder: Path) -> Agent:
    _require_torch()
    import torch  # noqa: PLC0415 - an extra, imported once the settings are right

    from edge_sdk.access import access_of  # noqa: PLC0415
    from edge_sdk.agent import Agent, Identity  # noqa: PLC0415
    from edge_sdk.governor import threads_for  # noqa: PLC0415
    from edge_sdk.journal import Journal  # noqa: PLC0415
    from edge_sdk.models.task import load_task  # noqa: PLC0415
    from edge_sdk.probe.board import read_board  # noqa: PLC0415
    from edge_sdk.training.progress import Progress  # noqa: PLC0415
    from edge_sdk.training.runner import TaskRunner  # noqa: PLC0415
    from edge_sdk.transport.mqtt import MqttTransport  # noqa: PLC0415
    from edge_sdk.warden import Frugal, Warden  # noqa: PLC0415

    address, badge = access_of(settings)
    profile = profile_of(settings.profile, folder)
    cores, share = read_board().cores, profile.caps.cpu_share
    if settings.threads or share < 1.0:
        lent = threads_for(cores, share) if share < 1.0 else settings.threads
        torch.set_num_threads(min(settings.threads or lent, lent))
    warden = Warden(profile.caps, cores=cores)
    task = load_task(settings.task)
    examples = task.train_data(settings.data)
    runner = TaskRunner(
        task,
        examples,
        settings.engine,
        micro_batch=micro_batch_of(settings, profile, task, examples),
        ghost_norm=settings.ghost_norm,
        activations=settings.activations,
        clock=warden.working_s,
        progress=Progress(settings.state),
    )
    identity = Identity(
        name=settings.name,
        federation=settings.federation,
        task=settings.task,
        examples=len(examples),
        profile=msgspec.to_builtins(profile),
    )
    log.info("%s: %d examples of task %s", settings.name, len(examples), task.name)
    return Agent(
        identity,
        lambda deliver, on_link, will: MqttTransport(
            address, settings.name, deliver, on_link, will=will, window=WINDOW
        ),
        Journal(settings.state),
        Frugal(runner),
        badge=badge,
        warden=warden,
        on_phase=_say_phase,
    )


def _say_phase(session: Session) -> None:
    round_no = f" round {session.order.round_no}" if session.order else ""
    log.info("%s%s", session.phase.value, round_no)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
