"""Whole fleets on this machine: the demo, simulation, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordinator.commands import complete
from coordinator.commands.options import Folder, need_torch
from edge_sdk.terminal import Json, show, tell

__all__ = ["demo", "plot", "reproduce", "simulate"]


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything of the demo lies.")
    ] = Path("run/demo"),
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 24,
    task: Annotated[str, typer.Option(help="mnist, fashion or digits.")] = "mnist",
    as_json: Json = False,
) -> None:
    """Run a whole federation here: broker, coordinator, eight devices, export."""
    from coordinator.demo.run import run_demo  # noqa: PLC0415 - imports the export room

    run_demo(folder, task=task, rounds=rounds, as_json=as_json)


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
            help="Take everything through a broker: mqtt (started here) or its URL.",
            envvar="FLASH_EDGE_TRANSPORT",  # a password is no word of a command line
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Play a whole fleet here without a network; the same command goes on with it."""
    need_torch()
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


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            help="flash-2, flash-3, flash-4, salientgrads-2, controls, candidates, "
            "recipe, methods or hetero."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Where its runs lie.")],
    settings: Annotated[
        Literal["paper", "released"],
        typer.Option(help="As resolved, or with the released code's quirks."),
    ] = "paper",
    seeds: Annotated[int, typer.Option(help="Seeds of each cell.", min=1)] = 3,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds, if not as published.", min=1)
    ] = None,
    score_every: Annotated[
        int | None,
        typer.Option(help="Score after every so many rounds.", min=1),
    ] = None,
    only: Annotated[
        str, typer.Option(help="Cells with this in their name, such as mnist.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes; 0 takes all cores.", min=0)
    ] = 0,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing; print what is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a published table cell by cell and print it; the same command goes on."""
    need_torch()
    from coordinator.simulation.reproduce import run as table_run  # noqa: PLC0415 - torch

    rows = table_run.reproduce(
        folder,
        table,
        kind=settings,
        seeds=seeds,
        rounds=rounds,
        score_every=score_every,
        only=only,
        worker_count=workers,
        report=report,
    )
    show(rows, lambda: table_run.markdown(rows), as_json=as_json)


def plot(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of simulated runs.")],
    as_json: Json = False,
) -> None:
    """Draw simulated runs: accuracy by round and bytes, layer densities, mismatch."""
    from coordinator.simulation.plots import draw_plots  # noqa: PLC0415 - an extra

    paths = [str(path) for path in draw_plots(out, runs)]
    told = "\n".join(f"wrote {path}" for path in paths)
    tell({"pictures": paths}, told, as_json=as_json)
