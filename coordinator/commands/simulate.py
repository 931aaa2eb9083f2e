"""Whole fleets on this machine: the demo, simulation, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordinator.commands import complete
from coordinator.commands.options import Folder
from edge_sdk.commands.options import need_torch
from edge_sdk.terminal import Json, show, tell

__all__ = ["demo", "plot", "simulate"]


def demo(
    folder: Annotated[
        Path, typer.Option(help="Folder of all files of the demo.")
    ] = Path("run/demo"),
    rounds: Annotated[
        int | None,
        typer.Option(help="Rounds; default 24, of --living about 200.", min=1),
    ] = None,
    task: Annotated[str, typer.Option(help="mnist, fashion or digits.")] = "mnist",
    living: Annotated[
        bool,
        typer.Option(
            "--living",
            help="Data shift, a class and devices come, one goes; a table of checks.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a whole federation here: broker, coordinator, eight devices, export."""
    if living:
        from coordinator.demo.living.play import ROUNDS, run_living  # noqa: PLC0415 - torch

        run_living(folder, rounds=rounds or ROUNDS, as_json=as_json)
        return
    from coordinator.demo.run import run_demo  # noqa: PLC0415 - imports the export room

    run_demo(folder, task=task, rounds=rounds or 24, as_json=as_json)


def simulate(
    folder: Folder,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Published settings by name.", autocompletion=complete.presets
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A TOML file, over the preset.")
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="One of the algorithms, over both.", autocompletion=complete.algorithms
        ),
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
    pool: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Workers here, or of a Ray cluster."),
    ] = "processes",
    ray_address: Annotated[
        str, typer.Option(help="The cluster, such as auto or host:6379; else this one.")
    ] = "",
    transport: Annotated[
        str,
        typer.Option(
            help="Send everything through a broker: mqtt (started here) or its URL.",
            envvar="FLASH_EDGE_TRANSPORT",  # a password is no word of a command line
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Simulate a fleet here without a network; the same command continues it."""
    need_torch("coordinator")
    from coordinator.simulation import command  # noqa: PLC0415 - imports torch
    from edge_sdk.tasks.task import find_tasks_beside  # noqa: PLC0415

    flags = {
        "algorithm": algorithm,
        "densities": density or None,
        "alpha": alpha,
        "rounds": rounds,
        "seed": seed,
    }
    found = command.settings_from(folder, preset, settings, flags)
    find_tasks_beside(folder if settings is None else settings.parent)
    where = command.workers_from(pool, ray_address)
    facts, told = command.run_simulation(folder, found, workers, where, transport)
    show(facts, lambda: told, as_json=as_json)


def plot(
    out: Annotated[Path, typer.Argument(help="Folder for the plots.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of simulated runs.")],
    as_json: Json = False,
) -> None:
    """Plot simulated runs: the metric by round and bytes, layer densities, mismatch."""
    from coordinator.simulation.plots import draw_plots  # noqa: PLC0415 - an extra

    paths = [str(path) for path in draw_plots(out, runs)]
    told = "\n".join(f"wrote {path}" for path in paths)
    tell({"pictures": paths}, told, as_json=as_json)
