"""A run is described, begun and gone on with."""

from __future__ import annotations

import gc
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from coordinator.commands import complete
from coordinator.commands.options import (
    SETTINGS,
    Folder,
    Insecure,
    own_folder,
)
from coordinator.densities import DEFAULT_ROUND_BUDGET_S
from coordinator.ledger import no_run
from coordinator.settings import DEVICES, RunSettings, load_run
from coordinator.views.page import DEFAULT_ADDRESS
from coordinator.views.terminal.status import has_run
from device_profiles.toml_text import quoted
from edge_sdk.checkpoint import replace_file
from edge_sdk.commands.options import need_torch
from edge_sdk.errors import SettingsError, StateError, TaskError
from edge_sdk.settings import seen_from
from edge_sdk.terminal import Json, given_secret, log_from_now_on, look, tell
from edge_sdk.transport.address import parse_url

__all__ = ["init", "resume", "run"]


def _places(given: list[str]) -> str:
    """Places where models are evaluated, as the settings have them."""
    found = [
        quoted(one if one == DEVICES else str(seen_from(Path(), one))) for one in given
    ]
    return found[0] if len(found) == 1 else f"[{', '.join(found)}]"


def init(
    folder: Folder,
    task: Annotated[
        str,
        typer.Option(
            help="A shipped task or module:object.", autocompletion=complete.tasks
        ),
    ],
    evaluation: Annotated[
        list[str],
        typer.Option(
            help='Folder with eval.npz, or "devices"; repeat it for both.',
        ),
    ],
    federation: Annotated[str, typer.Option(help="The federation's name.")] = "home",
    density: Annotated[
        list[float] | None,
        typer.Option(help="A density devices may get, in (0, 1]; repeat for more."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds after the warm-up.", min=1, max=10_000_000)
    ] = 20,
    wait_for: Annotated[
        int, typer.Option(help="Devices to wait for.", min=1, max=1_000_000)
    ] = 2,
    round_budget_s: Annotated[
        float, typer.Option(help="Seconds a device's part of a round may take.")
    ] = DEFAULT_ROUND_BUDGET_S,
    address: Annotated[
        str, typer.Option(help="Address at which devices reach this machine.")
    ] = "127.0.0.1",
    broker: Annotated[
        str,
        typer.Option(
            help="mqtts://host:port of your broker; empty starts one. With a "
            "password in it, "
            "- reads it from standard input.",
            envvar="FLASH_EDGE_BROKER",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Write FOLDER/run.toml, to edit and then `run`."""
    path = folder / SETTINGS
    if path.exists():
        raise SettingsError(
            f"{path} exists already", remedy="Edit it, or choose another folder."
        )
    if broker == "-":
        broker = given_secret(broker, variable="FLASH_EDGE_BROKER", what="broker's URL")
    own_folder(folder)
    lines = [
        f"federation = {quoted(federation)}",
        f"task = {quoted(task)}",
        f"evaluation = {_places(evaluation)}",
        f"densities = {sorted(density or [0.05, 0.1, 0.2])}",
        f"rounds = {rounds}",
        f"wait_for = {wait_for}",
        f"round_budget_s = {round_budget_s:g}",
        f"address = {quoted(address)}",
        f"broker = {quoted(broker)}",
        f'page = "{DEFAULT_ADDRESS}"',
        "# For a rule in a firewall; without them free ports are taken, and kept.",
        "# port = 8883          # of the broker that is started here",
        "# enroll_port = 8884   # where devices are let in",
        "",
        "[training]",
        "epochs = 1",
        "rate = 0.02",
        "rate_end = 0.002",
        "momentum = 0.9",
    ]
    replace_file(path, ("\n".join(lines) + "\n").encode())
    try:
        _check_ladder(folder, load_run(path))
        if broker:
            parse_url(broker)
    except Exception:
        path.unlink()
        raise
    told = (
        f"wrote {path}\nlet devices in with: flash-coordinator enroll {folder} --new "
        f"NAME...\nstart with: flash-coordinator run {folder}"
    )
    tell({"settings": str(path)}, told, as_json=as_json)


def _check_ladder(folder: Path, settings: RunSettings) -> None:
    """Refuses densities that the task's model is too small for.

    A task that cannot be made here is left to `doctor` and `run`: its file may follow.
    """
    if find_spec("torch") is None:
        return
    from edge_sdk.sparse import check_ladder  # noqa: PLC0415
    from edge_sdk.tasks.layers import layers_of, make_model  # noqa: PLC0415 - torch
    from edge_sdk.tasks.parts.run_task import run_task  # noqa: PLC0415 - torch
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415

    try:
        task = load_task(settings.task, beside=folder)
    except TaskError:
        return
    task = run_task(task, settings)
    try:
        layers = layers_of(make_model(task, 0), task.dense_layers)
    except TaskError:
        return
    check_ladder(layers, settings.densities)


def run(folder: Folder, insecure: Insecure = False) -> None:
    """Start the run of FOLDER/run.toml."""
    if has_run(folder):
        raise StateError(
            f"{folder} holds a run already",
            remedy=f"Go on with: flash-coordinator resume {folder}",
        )
    _serve(folder, insecure=insecure)


def resume(folder: Folder, insecure: Insecure = False) -> None:
    """Continue the run of FOLDER after an interruption."""
    if not has_run(folder):
        raise no_run(folder)
    _serve(folder, insecure=insecure)


def _serve(folder: Path, *, insecure: bool) -> None:
    settings = load_run(folder / SETTINGS)
    if insecure:
        settings = msgspec.structs.replace(settings, insecure=True)
    need_torch("coordinator")
    log_from_now_on(run=settings.federation)
    own_folder(folder)
    from coordinator.server.wiring import serve  # noqa: PLC0415 - imports torch

    # Torch's 200 000 objects stay; to look through them took a collection 130 ms.
    gc.freeze()
    serve(folder, settings, look())
