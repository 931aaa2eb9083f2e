"""Whole fleets on this machine: the demo, simulation, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands.options import Folder, need_torch
from edge_sdk.terminal import say

__all__ = ["demo", "plot", "simulate"]


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything of the demo lies.")
    ] = Path("run/demo"),
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.", min=1)] = 24,
    task: Annotated[str, typer.Option(help="mnist, fashion or digits.")] = "mnist",
) -> None:
    """Run a whole federation here: broker, coordinator, eight devices, export."""
    from coordinator.demo import run_demo  # noqa: PLC0415 - imports the export room

    run_demo(folder, task=task, rounds=rounds)


def simulate(
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
) -> None:
    """Play a whole fleet here without a network; the same command goes on with it."""
    need_torch()
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


def plot(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of simulated runs.")],
) -> None:
    """Draw simulated runs: accuracy by round and bytes, layer densities, mismatch."""
    from coordinator.simulation.plots import draw_plots  # noqa: PLC0415 - an extra

    for path in draw_plots(out, runs):
        say(f"wrote {path}")
