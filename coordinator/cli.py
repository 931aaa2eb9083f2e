"""`flash-coordinator`: the command that operates a fleet."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from coordinator.assignment import DEFAULT_ROUND_BUDGET_S
from coordinator.dashboard import DEFAULT_ADDRESS, page_url, serve_page
from coordinator.display import human_bytes
from coordinator.settings import load_run
from coordinator.status import has_run, summary
from device_profiles import ProfileError, boards, load_board
from edge_sdk.errors import (
    DependencyError,
    IdentityError,
    SettingsError,
    StateError,
)
from edge_sdk.terminal import run_app, set_up_logging

if TYPE_CHECKING:
    from coordinator.identity.office import Office

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run a federation: warm-up, rounds, one sparse model per density.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger(__name__)
Folder = Annotated[Path, typer.Argument(help="The run's folder.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain MQTT; for this machine only.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say more; show tracebacks.")]
SETTINGS = "run.toml"


@app.callback()
def _root() -> None:
    """Run a federation: warm-up, rounds, one sparse model per density."""


@app.command()
def init(
    folder: Folder,
    task: Annotated[str, typer.Option(help="A shipped task or module:object.")],
    evaluation: Annotated[Path, typer.Option(help="Folder with eval.npz.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")] = "home",
    density: Annotated[
        list[float] | None,
        typer.Option(help="A density devices may get, in (0, 1]; repeat for more."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 20,
    wait_for: Annotated[int, typer.Option(help="Devices to wait for.", min=1)] = 2,
    round_budget_s: Annotated[
        float, typer.Option(help="Seconds a device's part of a round may take.")
    ] = DEFAULT_ROUND_BUDGET_S,
    address: Annotated[
        str, typer.Option(help="Where devices reach this machine.")
    ] = "127.0.0.1",
    broker: Annotated[
        str, typer.Option(help="mqtts://host:port of yours; empty starts one.")
    ] = "",
) -> None:
    """Write FOLDER/run.toml, to edit and then `run`."""
    path = folder / SETTINGS
    if path.exists():
        raise SettingsError(
            f"{path} exists already", remedy="Edit it, or choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f'federation = "{federation}"',
        f'task = "{task}"',
        f'evaluation = "{evaluation.resolve()}"',
        f"densities = {sorted(density or [0.05, 0.1, 0.2])}",
        f"rounds = {rounds}",
        f"wait_for = {wait_for}",
        f"round_budget_s = {round_budget_s:g}",
        f'address = "{address}"',
        f'broker = "{broker}"',
        f'page = "{DEFAULT_ADDRESS}"',
        "",
        "[training]",
        "epochs = 1",
        "rate = 0.1",
        "rate_end = 0.01",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        load_run(path)
    except Exception:
        path.unlink()
        raise
    typer.echo(
        f"wrote {path}\nlet devices in with: flash-coordinator enroll {folder} --new "
        f"NAME...\nstart with: flash-coordinator run {folder}"
    )


@app.command("run")
def run_command(
    folder: Folder, insecure: Insecure = False, verbose: Verbose = False
) -> None:
    """Start the run of FOLDER/run.toml."""
    if has_run(folder):
        raise StateError(
            f"{folder} holds a run already",
            remedy=f"Go on with: flash-coordinator resume {folder}",
        )
    _serve(folder, insecure=insecure, verbose=verbose)


@app.command()
def resume(
    folder: Folder, insecure: Insecure = False, verbose: Verbose = False
) -> None:
    """Go on with the run of FOLDER, wherever it was interrupted."""
    if not has_run(folder):
        raise StateError(
            f"{folder} holds no run yet",
            remedy=f"Start it with: flash-coordinator run {folder}",
        )
    _serve(folder, insecure=insecure, verbose=verbose)


@app.command()
def enroll(
    folder: Folder,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the devices to let in.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Let in the named devices.")
    ] = False,
    bulk: Annotated[
        int, typer.Option(help="Let in so many, with names chosen here.", min=0)
    ] = 0,
    prefix: Annotated[str, typer.Option(help="What bulk names begin with.")] = "device",
    hours: Annotated[
        float, typer.Option(help="How long an unused token works.", min=0.01)
    ] = 24.0,
) -> None:
    """Print one-time tokens, a line per device, for `flash-edge enroll TOKEN` there."""
    from coordinator.identity.gate import enroll_port, open_office  # noqa: PLC0415
    from coordinator.identity.policy import free_names  # noqa: PLC0415

    settings = load_run(folder / SETTINGS)
    if bool(names) == bool(bulk) or (names and not new):
        raise SettingsError(
            "nobody is named, or both names and --bulk",
            remedy=f"flash-coordinator enroll {folder} --new NAME... or --bulk N",
        )
    office = open_office(folder, settings)
    port = enroll_port(office, settings)
    chosen = names or free_names(prefix, bulk, office.taken())
    for name in chosen:
        token = office.token(name, settings.address, port, hours=hours)
        typer.echo(f"{name}  {token}")
    typer.echo(
        "On each device: flash-edge enroll TOKEN, while flash-coordinator run "
        f"{folder} runs here. A token works once, for {hours:g} hours.",
        err=True,
    )


@app.command()
def revoke(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The device.")],
    why: Annotated[
        str, typer.Option(help="Told to the device and to people.")
    ] = "by the operator",
) -> None:
    """Take a device's identity back; a coordinator that runs acts within a second."""
    _office(folder).revoke(name, why)
    typer.echo(f"revoked {name}")


@app.command()
def rotate(folder: Folder) -> None:
    """Replace the key that the coordinator signs with; devices follow by themselves."""
    number = _office(folder).rotate()
    typer.echo(f"key {number} signs from now on")


@app.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where the run of FOLDER stands, also while it runs."""
    found = summary(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"rounds done: {found['rounds_done']}, open: {found['open'] or 'none'}")
    for aborted in found["rounds_aborted"]:
        typer.echo(f"round {aborted['round']} aborted: {aborted['why']}")
    if found["scores"]:
        last = max(found["scores"], key=int)
        for density, metrics in found["scores"][last].items():
            typer.echo(f"after round {last} at density {density}: {metrics}")
    table = Table(box=None)
    for column in ("device", "board", "density", "why", "memory", "sent", "received"):
        table.add_column(column)
    table.add_column("refused")
    for device in found["devices"]:
        table.add_row(
            device["name"],
            device["board"],
            "-" if device["density"] is None else f"{device['density']:g}",
            "; ".join(filter(None, (device["why"], device["pace"], _paused(device)))),
            f"{device['peak_mib']} MiB" if device["peak_mib"] else "-",
            human_bytes(device["sent_bytes"]),
            human_bytes(device["received_bytes"]),
            str(device["refused"]),
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    for device in found["devices"]:
        for one in device["refusals"]:
            typer.echo(
                f"{device['name']}: {one['verdict']} {one['count']} times, "
                f"last in round {one['round']}: {one['why']}"
            )


@app.command()
def page(
    folder: Folder,
    listen: Annotated[
        str, typer.Option(help="host:port; a port that is taken is replaced.")
    ] = DEFAULT_ADDRESS,
    address: Annotated[
        bool, typer.Option("--address", help="Print where it is served, with token.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Serve the web page of FOLDER's run: before it, while it runs, and after."""
    if address:
        url = page_url(folder)
        if url is None:
            raise StateError(
                f"no page of {folder} has been served yet",
                remedy=f"Serve it with: flash-coordinator page {folder}",
            )
        typer.echo(url)
        return
    set_up_logging(verbose=verbose)
    serve_page(folder, listen)


@app.command("plan")
def plan_command(
    task: Annotated[str, typer.Option(help="A shipped task or module:object.")],
    board: Annotated[
        list[str] | None, typer.Option(help="A board; repeat for more. Default: all.")
    ] = None,
    density: Annotated[
        list[float] | None, typer.Option(help="A density; repeat for more.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples per device.", min=1)] = 1000,
    round_budget_s: Annotated[
        float, typer.Option(help="Seconds a device's part of a round may take.")
    ] = DEFAULT_ROUND_BUDGET_S,
    rounds_per_day: Annotated[float, typer.Option(help="How often.")] = 24.0,
) -> None:
    """Say what boards could do before one is at hand: density, time, bytes a month."""
    from coordinator.plan import plan_fleet, plan_table  # noqa: PLC0415
    from edge_sdk.models.cost import workload_of  # noqa: PLC0415 - imports torch
    from edge_sdk.models.task import load_task  # noqa: PLC0415

    found = load_task(task)
    work = workload_of(found, examples=examples, epochs=1, batch=found.batch_size)
    try:
        plan = plan_fleet(
            {name: load_board(name) for name in board or boards()},
            work,
            density or (0.05, 0.1, 0.2),
            round_budget_s,
            rounds_per_day=rounds_per_day,
        )
    except ProfileError as error:
        raise SettingsError(str(error), remedy=error.help) from error
    console = Console()
    console.width = max(console.width, 140)
    console.print(plan_table(plan))


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything of the demo lies.")
    ] = Path("run/demo"),
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 24,
    task: Annotated[str, typer.Option(help="mnist, fashion or digits.")] = "mnist",
    verbose: Verbose = False,
) -> None:
    """Run a whole federation here: broker, coordinator, eight devices, export."""
    set_up_logging(verbose=verbose)
    from coordinator.demo import run_demo  # noqa: PLC0415 - imports the export room

    run_demo(folder, task=task, rounds=rounds)


def _paused(device: Mapping[str, Any]) -> str:
    return f"paused: {device['note']}" if device["note"] else ""


@app.command("simulate")
def simulate_command(
    folder: Folder,
    preset: Annotated[
        str | None, typer.Option(help="Published settings by name.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A TOML file, over the preset.")
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="One of the algorithms, over both.")
    ] = None,
    density: Annotated[
        list[float] | None, typer.Option(help="A density; repeat for more.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Dirichlet concentration of the data.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes; 0 takes all cores.", min=0)
    ] = 0,
    verbose: Verbose = False,
) -> None:
    """Play a whole fleet here without a network; the same command goes on with it."""
    set_up_logging(verbose=verbose)
    _need_torch()
    from coordinator.simulation import command  # noqa: PLC0415 - imports torch

    flags = {
        "algorithm": algorithm,
        "densities": density or None,
        "alpha": alpha,
        "rounds": rounds,
        "seed": seed,
    }
    found = command.settings_from(folder, preset, settings, flags)
    command.run_simulation(folder, found, workers)


def _office(folder: Path) -> Office:
    from coordinator.identity.gate import open_office  # noqa: PLC0415
    from coordinator.identity.office import Office  # noqa: PLC0415

    settings = load_run(folder / SETTINGS)
    if not Office.exists(folder):
        raise IdentityError(
            f"{folder} has no enrolled devices",
            remedy=f"flash-coordinator enroll {folder} --new NAME...",
        )
    return open_office(folder, settings)


@app.command()
def plot(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of simulated runs.")],
) -> None:
    """Draw simulated runs: accuracy by round and bytes, layer densities, mismatch."""
    from coordinator.simulation.plots import draw_plots  # noqa: PLC0415 - an extra

    for path in draw_plots(out, runs):
        typer.echo(f"wrote {path}")


def _serve(folder: Path, *, insecure: bool, verbose: bool) -> None:
    set_up_logging(verbose=verbose)
    settings = load_run(folder / SETTINGS)
    if insecure:
        settings = msgspec.structs.replace(settings, insecure=True)
    _need_torch()
    from coordinator.serve import serve  # noqa: PLC0415 - imports torch

    serve(folder, settings)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            "torch is not installed: pip install 'flash-edge[coordinator]'"
        ) from error


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
