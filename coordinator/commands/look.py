"""What there is to see of a run, while it runs and after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from coordinator.commands.options import Folder
from coordinator.dashboard import DEFAULT_ADDRESS, page_url, serve_page
from coordinator.display import human_bytes
from coordinator.status import summary
from edge_sdk.errors import StateError
from edge_sdk.terminal import Json

__all__ = ["page", "status"]


def status(
    folder: Folder,
    as_json: Json = False,
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
        for line in _lines(device):
            typer.echo(f"{device['name']} {line}")


def _lines(device: Mapping[str, Any]) -> Iterator[str]:
    """What else there is to say of a device: its model, and what was refused."""
    if live := device["model"]:
        yield f"runs {live['label']} ({live['digest'][:8]})"
    if (last := device["delivery"]) and last["verdict"] != "live":
        why = f": {last['why']}" if last["why"] else ""
        yield f"delivery {last['no']} of {last['label']} is {last['verdict']}{why}"
    for one in device["refusals"]:
        yield (
            f"{one['verdict']} {one['count']} times, "
            f"last in round {one['round']}: {one['why']}"
        )


def _paused(device: Mapping[str, Any]) -> str:
    return f"paused: {device['note']}" if device["note"] else ""


def page(
    folder: Folder,
    listen: Annotated[
        str, typer.Option(help="host:port; a port that is taken is replaced.")
    ] = DEFAULT_ADDRESS,
    address: Annotated[
        bool, typer.Option("--address", help="Print where it is served, with token.")
    ] = False,
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
    serve_page(folder, listen)
