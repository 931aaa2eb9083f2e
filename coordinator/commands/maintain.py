"""A run is looked after: its log, its health, and its end."""

from __future__ import annotations

import dataclasses
import sys
import threading
from itertools import chain
from typing import Annotated, Literal

import typer

from coordinator.commands import complete
from coordinator.commands.options import Folder
from coordinator.operations.stop import stop_coordinator
from coordinator.server.log_file import Wanted, follow_log, line_of, read_log
from edge_sdk.json_text import to_json
from edge_sdk.terminal import Exit, Json, on_stop, say, show
from edge_sdk.terminal.utf8 import echo

__all__ = ["doctor", "extend", "logs", "stop"]


def logs(
    folder: Folder,
    *,
    device: Annotated[
        str | None,
        typer.Option(
            help="Lines about this device only.", autocompletion=complete.devices
        ),
    ] = None,
    round_no: Annotated[
        int | None, typer.Option("--round", help="Lines of this round only.")
    ] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="Lines of this level and above."),
    ] = "info",
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="Number of last lines; 0: all.", min=0)
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new lines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what the coordinator of FOLDER logged; with --json a document per line."""
    wanted = Wanted(device=device, round_no=round_no, level=level)
    past, end = read_log(folder, wanted)
    over = threading.Event()
    if follow:
        on_stop(over.set)
    to_come = follow_log(folder, wanted, end, over.wait) if follow else ()
    for entry in chain(past[-lines:], to_come):
        echo(to_json(entry) if as_json else line_of(entry), json=True)


def stop(
    folder: Folder,
    *,
    wait_s: Annotated[
        float, typer.Option(help="Seconds to wait for its end.", min=0, max=86_400)
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Stop the coordinator of FOLDER; everything accepted is kept."""
    pid = stop_coordinator(folder, wait_s)
    told = f"stopped the coordinator of {folder} (process {pid})"
    show({"folder": str(folder), "process": pid}, lambda: told, as_json=as_json)
    say(f"go on with: flash-coordinator resume {folder}", aside=True)


def extend(
    folder: Folder,
    *,
    rounds: Annotated[int, typer.Option(help="Rounds to add.", min=1, max=1_000_000)],
    as_json: Json = False,
) -> None:
    """Have the run of FOLDER go on for some more rounds; it may be running."""
    from coordinator.ledger import is_held  # noqa: PLC0415
    from coordinator.operations.extend import extend_run, lacks_devices  # noqa: PLC0415

    total = extend_run(folder, rounds)
    told = f"the run of {folder} goes on until {total} rounds are done"
    show({"folder": str(folder), "rounds": total}, lambda: told, as_json=as_json)
    if why := lacks_devices(folder):
        say(why, aside=True)
    if not is_held(folder):
        say(f"go on with: flash-coordinator resume {folder}", aside=True)


def doctor(folder: Folder, *, as_json: Json = False) -> None:
    """Check whether the run of FOLDER can start here, with remedies."""
    from coordinator.operations.doctor import examine  # noqa: PLC0415 - imports torch
    from edge_sdk.device.doctor import render  # noqa: PLC0415

    checks = examine(folder)
    facts = [dataclasses.asdict(check) for check in checks]
    show(facts, lambda: render(checks), as_json=as_json)
    if any(check.status == "problem" for check in checks):
        sys.exit(Exit.FOUND)
