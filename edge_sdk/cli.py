"""`flash-edge`: the command that a device runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from device_profiles import ProfileError, boards, load_board, load_profile
from edge_sdk.errors import DependencyError, SettingsError
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.terminal import on_stop, run_app, set_up_logging

if TYPE_CHECKING:
    from device_profiles import DeviceProfile
    from edge_sdk.agent import Agent
    from edge_sdk.session import Session

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train a sparse model on this device, as part of a federation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger(__name__)
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
    agent = _agent(load_settings(settings, DeviceSettings), settings.parent)
    on_stop(agent.stop)
    try:
        agent.run(until_done=until_done)
    finally:
        agent.close()


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


def _agent(settings: DeviceSettings, folder: Path) -> Agent:
    try:
        import torch  # noqa: PLC0415 - an extra, imported once the settings are right
    except ImportError as error:
        raise DependencyError(
            "torch is not installed: pip install 'flash-edge[device]'"
        ) from error
    from edge_sdk.agent import Agent, Identity  # noqa: PLC0415
    from edge_sdk.journal import Journal  # noqa: PLC0415
    from edge_sdk.models.task import load_task  # noqa: PLC0415
    from edge_sdk.training.runner import TaskRunner  # noqa: PLC0415
    from edge_sdk.transport.mqtt import MqttTransport, parse_url  # noqa: PLC0415

    if settings.threads:
        torch.set_num_threads(settings.threads)
    address = parse_url(settings.broker)
    profile = profile_of(settings.profile, folder)
    task = load_task(settings.task)
    examples = task.train_data(settings.data)
    runner = TaskRunner(task, examples, settings.engine)
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
            address, settings.name, deliver, on_link, will=will
        ),
        Journal(settings.state),
        runner,
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
