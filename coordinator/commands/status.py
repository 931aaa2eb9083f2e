"""Commands that show a run, while it runs and after it."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from coordinator.commands import complete
from coordinator.commands.options import Folder, own_folder
from coordinator.views.ledger_view import left_s, view_of
from coordinator.views.page import DEFAULT_ADDRESS, page_url, serve_page
from coordinator.views.page.source import RunSource
from coordinator.views.run_view import FleetView
from coordinator.views.terminal.device_table import fleet_table, reasons
from coordinator.views.terminal.display import live, render
from coordinator.views.terminal.history_tables import (
    device_history,
    round_history,
    rounds_table,
    troubles,
)
from coordinator.views.terminal.status import NOTHING, delivered
from edge_sdk.errors import StateError
from edge_sdk.terminal import Json, look, on_stop, show, width

__all__ = ["devices", "page", "rounds", "status"]

LOOK_S = 0.5  # between two looks at the ledger
PIPED = 80  # columns in a pipe: what is mailed or pasted is read by people


def status(
    folder: Folder,
    *,
    stay: Annotated[
        bool, typer.Option("--live", help="Stay, and show every change until its end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show where the run of FOLDER stands: before it, while it runs, and after."""
    source = RunSource(folder)
    if stay and not as_json:
        _stay(source)
        return
    facts = _facts(source, folder)
    if facts["open"] is not None:
        left = left_s(facts["open"], datetime.now(timezone.utc))
        facts["open"] = facts["open"] | {"left_s": left}
    show(
        facts,
        lambda: Group(render(_view(source), width(PIPED)), troubles(facts)),
        as_json=as_json,
        columns=width(PIPED),
    )


def devices(
    folder: Folder,
    name: Annotated[
        str | None,
        typer.Argument(
            help="One device, with all its rounds.", autocompletion=complete.devices
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the devices: density and why, phase, bytes, memory, heat, accuracy."""
    source = RunSource(folder)
    if name is not None:
        facts = source.device(name)
        show(
            facts,
            lambda: device_history(facts),
            as_json=as_json,
            columns=width(PIPED),
        )
        return

    def people() -> RenderableType:
        view = _view(source)
        table = fleet_table(view.devices, view.scores, width(PIPED))
        return Group(table, reasons(view.devices, width(PIPED)))

    found = _facts(source, folder)["devices"]
    show(found, people, as_json=as_json, columns=width(PIPED))


def rounds(
    folder: Folder,
    no: Annotated[
        int | None, typer.Argument(help="One round, with its devices; 0: the warm-up.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the rounds: updates, seconds, bytes, accuracy, why one was aborted."""
    source = RunSource(folder)
    if no is not None:
        one = source.round(no)
        show(one, lambda: round_history(one), as_json=as_json)
        return
    facts = source.run()["rounds"]
    none_yet = Text("no round has begun yet", style="dim")
    show(facts, lambda: rounds_table(facts) if facts else none_yet, as_json=as_json)


def page(
    folder: Folder,
    listen: Annotated[
        str, typer.Option(help="host:port; a port that is taken is replaced.")
    ] = DEFAULT_ADDRESS,
    *,
    address: Annotated[
        bool, typer.Option("--address", help="Print where it is served, with token.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve the web page of FOLDER's run: before it, while it runs, and after."""
    if not address:
        own_folder(folder)
        serve_page(folder, listen)
        return
    url = page_url(folder)
    if url is None:
        raise StateError(
            f"no page of {folder} has been served yet",
            remedy=f"Serve it with: flash-coordinator page {folder}",
        )
    show({"address": url}, lambda: url, as_json=as_json)


def _facts(source: RunSource, folder: Path) -> dict[str, Any]:
    """The run, and what was delivered to its devices."""
    facts, models = source.run(), delivered(folder)
    known = [
        device | models.get(device["name"], NOTHING) for device in facts["devices"]
    ]
    return {**facts, "devices": known}


def _view(source: RunSource) -> FleetView:
    return view_of(source.run(), datetime.now(timezone.utc))


def _stay(source: RunSource) -> None:
    over = threading.Event()
    view = _view(
        source
    )  # what is wrong with the folder is said before anything is drawn
    on_stop(over.set)
    with live(look()) as observe:
        while True:
            observe(view)
            if view.rounds_done >= view.rounds or over.wait(LOOK_S):
                return
            view = _view(source)
