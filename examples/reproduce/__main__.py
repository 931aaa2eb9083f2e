"""The command `python -m examples.reproduce TABLE FOLDER`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_sdk.terminal import Json, add, run_program, show
from examples.reproduce.run import markdown, reproduce
from examples.reproduce.tables import TABLES

app = typer.Typer(pretty_exceptions_enable=False)


def main(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(TABLES)}.")],
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
        int | None, typer.Option(help="Score after every so many rounds.", min=1)
    ] = None,
    only: Annotated[
        str, typer.Option(help="Cells with this in their name, such as mnist.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes; 0 takes all cores.", min=0)
    ] = 0,
    *,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing; print what is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a published table cell by cell and print it; the same command goes on."""
    rows = reproduce(
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
    show(rows, lambda: markdown(rows), as_json=as_json)


add(app, main, "reproduce")

if __name__ == "__main__":
    run_program(app)
