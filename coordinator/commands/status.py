"""Commands that show a run, while it runs and after it."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from coordinator.commands import complete
from coordinator.commands.options import Folder, own_folder
from coordinator.views.device_view import device_json
from coordinator.views.page import DEFAULT_ADDRESS, page_url, serve_page
from coordinator.views.run_view import FleetView, RunView
from coordinator.views.source import RunSource
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
        bool,
        typer.Option("--live", help="Keep the output up to date until the run ends."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the state of FOLDER's run: before it, while it runs, and after."""
    source = RunSource(folder)
    if stay and not as_json:
        _stay(source)
        return
    view, models, now = source.run(), delivered(folder), datetime.now(timezone.utc)
    facts = view.as_json() | {"devices": _with_models(view, models)}
    if view.open is not None:
        facts["open"]["left_s"] = view.open.left_s(now)
    show(
        facts,
        lambda: Group(render(view.at(now), width(PIPED)), troubles(view, models)),
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
    """List the devices: density and why, phase, bytes, memory, heat, score."""
    source = RunSource(folder)
    if name is not None:
        one = source.device(name)
        show(
            one.as_json(),
            lambda: device_history(one),
            as_json=as_json,
            columns=width(PIPED),
        )
        return
    view = source.run()

    def people() -> RenderableType:
        shown = view.at(datetime.now(timezone.utc))
        table = fleet_table(
            shown.devices, shown.scores, width(PIPED), metric=shown.metric
        )
        return Group(table, reasons(shown.devices, width(PIPED)))

    found = _with_models(view, delivered(folder))
    show(found, people, as_json=as_json, columns=width(PIPED))


def rounds(
    folder: Folder,
    no: Annotated[
        int | None, typer.Argument(help="One round, with its devices; 0: the warm-up.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the rounds: updates, seconds, bytes, scores, why one was aborted."""
    source = RunSource(folder)
    if no is not None:
        one = source.round(no)
        show(one.as_json(), lambda: round_history(one), as_json=as_json)
        return
    view = source.run()
    none_yet = Text("no round has begun yet", style="dim")
    show(
        view.as_json()["rounds"],
        lambda: rounds_table(view.rounds, view.metric) if view.rounds else none_yet,
        as_json=as_json,
    )


def page(
    folder: Folder,
    listen: Annotated[
        str, typer.Option(help="host:port; a port that is taken is replaced.")
    ] = DEFAULT_ADDRESS,
    *,
    address: Annotated[
        bool, typer.Option("--address", help="Print its address, with the token.")
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


def _with_models(
    view: RunView, models: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The devices, each with what was delivered to it."""
    return [device_json(d) | models.get(d.name, NOTHING) for d in view.devices]


def _view(source: RunSource) -> FleetView:
    return source.run().at(datetime.now(timezone.utc))


def _stay(source: RunSource) -> None:
    over = threading.Event()
    view = _view(
        source
    )  # what is wrong with the folder is said before anything is drawn
    on_stop(over.set)
    with live(look()) as observe:
        while True:
            observe(view)
            if 0 < view.rounds <= view.rounds_done or over.wait(LOOK_S):
                return
            view = _view(source)
