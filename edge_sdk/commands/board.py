"""Commands about this board: enrolment, settings, measurements, checks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from device_profiles import boards, load_board
from edge_sdk.checkpoint import replace_file
from edge_sdk.commands.options import OWN
from edge_sdk.errors import CheckpointError, EdgeError, SettingsError
from edge_sdk.private_files import keep_private
from edge_sdk.settings import (
    DeviceSettings,
    load_settings,
    profile_of,
    seen_from,
)
from edge_sdk.terminal import Exit, Json, given_secret, hide, say, show
from edge_sdk.toml_file import with_key

if TYPE_CHECKING:
    from edge_sdk.identity.exchange import Enrolled

__all__ = ["doctor", "enroll", "list_boards", "profile"]

log = logging.getLogger(__name__)
TOKEN_VARIABLE = "FLASH_EDGE_TOKEN"  # noqa: S105 - the variable's name
NO_ECHO = (
    "the broker lets an enrolled device hear only what is sent to it; enter the link's "
    "rate by hand"
)


def board_names(begun: str) -> list[str]:
    """Completions of a board's name for the shell."""
    return [name for name in boards() if name.startswith(begun)]


def enroll(
    token: Annotated[
        list[str] | None,
        typer.Argument(
            help="The token that the operator gave, or the whole line of it; - reads "
            f"it from standard input. Default: ${TOKEN_VARIABLE}."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the token; - as above.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Folder of this device: identity, settings, state.")
    ] = Path(),
    data: Annotated[
        Path | None, typer.Option(help="Folder with this device's private examples.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="A board of `flash-edge boards`, or a profile TOML.",
            autocompletion=board_names,
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make this device's keys, have them certified, and write its device.toml."""
    from edge_sdk.device.probe.board import likely_board, read_board  # noqa: PLC0415
    from edge_sdk.identity.enroll import enroll as enroll_device  # noqa: PLC0415
    from edge_sdk.identity.enroll import settings_text  # noqa: PLC0415
    from edge_sdk.identity.folder import begun  # noqa: PLC0415
    from edge_sdk.identity.token import read_token  # noqa: PLC0415

    given = given_secret(
        " ".join(token or ()), file=token_file, variable=TOKEN_VARIABLE, what="token"
    )
    hide(given)
    path = folder / "device.toml"
    identity = folder / "identity"
    if path.exists() and not begun(identity):
        raise SettingsError(
            f"{path} exists already",
            remedy=f"Name another --folder. To enrol this device anew: move {path} "
            f"away and delete {identity}.",
        )

    keep_private(folder, OWN, shut=False)
    board = profile or likely_board(read_board())
    profile_of(board, Path())  # refused before the token is used up
    if board.endswith(".toml"):
        board = str(seen_from(Path(), board))

    def write_settings(answer: Enrolled) -> None:
        text = settings_text(
            answer,
            identity="identity",
            data=str(seen_from(Path(), data)) if data else "data",
            state="state",
            profile=board,
        )
        try:
            replace_file(path, text.encode())
            (folder / "state").mkdir(exist_ok=True)  # the service may only write it
        except (CheckpointError, OSError) as error:
            raise SettingsError(
                f"{error}", remedy="Free some space, or name another --folder."
            ) from error

    answer = enroll_device(read_token(given), identity, before_end=write_settings)
    facts = {
        "name": answer.name,
        "federation": answer.federation,
        "settings": str(path),
        "profile": board,
    }
    told = f"{answer.name} is enrolled in {answer.federation}; wrote {path}"
    show(facts, lambda: told, as_json=as_json)
    if not as_json:
        if not profile:
            say(
                f"profile: {board}, guessed from what the kernel says; "
                f"measured by: flash-edge profile {path}"
            )
        say(f"start with: flash-edge run {path}")


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
    write: Annotated[
        bool,
        typer.Option("--write", help="Name the profile in the settings file, too."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure this board with the settings' own task, and write its profile."""
    from edge_sdk.device.doctor.plans import STATED_AT, plans_of  # noqa: PLC0415
    from edge_sdk.device.probe.board import nearest_folder  # noqa: PLC0415
    from edge_sdk.device.probe.report import default_path, write_profile  # noqa: PLC0415
    from edge_sdk.device.probe.run import probe  # noqa: PLC0415
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415 - imports the task

    own = load_settings(settings, DeviceSettings)
    path = out or default_path(own.state)
    if not os.access(nearest_folder(path.parent), os.W_OK):
        raise CheckpointError(f"{path} cannot be written by this user")
    task = load_task(own.task, beside=settings.parent)
    plans = plans_of(own, settings.parent, tuple(density or STATED_AT))
    for at, plan in plans.items():
        log.info("memory plan at density %g: %s", at, plan)
    found = probe(
        task,
        task.read_train(own.data),
        engine=own.engine,
        densities=density or (0.05, 0.2),
        # An enrolled device hears what is sent to it and nothing else: no echo.
        broker_url=own.broker if own.identity is None else None,
        why_no_link=NO_ECHO if own.identity is not None else "",
        seconds=seconds,
        plans=plans,
        device=own.device,
        autocast=own.autocast,
        progress=lambda share, what: log.info("%3.0f %%  %s", 100 * share, what),
        folder=own.state,
    )
    path = path.resolve()
    lent = profile_of(own.profile, settings.parent).caps  # the owner's, not measured
    write_profile(path, msgspec.structs.replace(found, caps=lent) if write else found)
    if write:
        text = settings.read_text(encoding="utf-8")
        replace_file(settings, with_key(text, "profile", str(path)).encode())
    facts = {"file": str(path), "profile": msgspec.to_builtins(found)}
    told = (
        f"wrote {path}, and its name into {settings}"
        if write
        else f'wrote {path}; use it with --write, or: profile = "{path}"'
    )
    show(facts, lambda: told, as_json=as_json)


def doctor(
    settings: Annotated[
        Path | None, typer.Argument(help="The device's TOML file, to check its broker.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this board, with remedies; exit code 1 if a check fails."""
    from edge_sdk.access import tls_of  # noqa: PLC0415
    from edge_sdk.device.doctor import DoctorTarget, examine, render  # noqa: PLC0415
    from edge_sdk.transport.configured import broker_address  # noqa: PLC0415

    patient = DoctorTarget()
    if settings is not None:
        own = load_settings(settings, DeviceSettings)
        tls = address = None
        with contextlib.suppress(EdgeError):  # the patient's complaint; named below
            tls = tls_of(own)
            address = broker_address(own, tls)
        patient = DoctorTarget(
            broker_url=own.broker,
            tls=tls,
            address=address,
            identity=own.identity,
            state=own.state,
            task=own.task,
            data=own.data,
            beside=settings.parent,
            profile=own.profile,
            engine=own.engine,
            settings=settings,
        )
    checks = examine(patient)
    facts = [dataclasses.asdict(check) for check in checks]
    show(facts, lambda: render(checks), as_json=as_json)
    if any(check.status == "problem" for check in checks):
        sys.exit(Exit.FOUND)


def list_boards(as_json: Json = False) -> None:
    """List the boards of the catalogue; with --json, all that is known of each."""
    facts = {name: msgspec.to_builtins(load_board(name)) for name in boards()}
    show(facts, lambda: "\n".join(facts), as_json=as_json)
