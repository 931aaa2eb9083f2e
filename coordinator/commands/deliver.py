"""`deliver`: a bundle for the boards of a run, over the run's own MQTT."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands import complete
from coordinator.commands.options import SETTINGS, Folder, own_folder
from coordinator.settings import RunSettings, load_run
from coordinator.views.terminal.status import summary
from edge_sdk.commands.options import need_torch
from edge_sdk.errors import StateError
from edge_sdk.infer.signature import read_public_key
from edge_sdk.terminal import Exit, Json, look, say, show

__all__ = ["deliver"]


def deliver(
    folder: Folder,
    bundle: Annotated[Path, typer.Argument(help="A bundle of flash-export bundle.")],
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="A device to deliver to; repeat. Default: all.",
            autocompletion=complete.devices,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Public key (PEM) that signs it, if not the run's own."),
    ] = None,
    even_if_worse: Annotated[
        bool,
        typer.Option(
            "--even-if-worse",
            help="Also a model that is marked as worse than the one before.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make BUNDLE the live model of devices: at once, or when each is here again."""
    from coordinator.delivery.prepare import prepare  # noqa: PLC0415 - reads bundles
    from coordinator.ledger import is_held  # noqa: PLC0415

    settings = load_run(folder / SETTINGS)
    own_folder(folder)
    trusted = None if key is None else read_public_key(key)
    made = prepare(
        *(folder, settings, bundle, device or ()),
        trusted=trusted,
        worse_too=even_if_worse,
    )
    told = f"delivery {made.no}: {made.label} for {', '.join(made.devices)}"
    show(dataclasses.asdict(made), lambda: told, as_json=as_json)
    if is_held(folder):
        say(f"it is on its way: flash-coordinator status {folder}", aside=True)
    elif not _done(folder, settings):
        say(f"it goes out with: flash-coordinator resume {folder}", aside=True)
    else:
        say(f"Ctrl-C leaves it for: flash-coordinator resume {folder}", aside=True)
        _see_through(folder, settings, made.no)


def _done(folder: Path, settings: RunSettings) -> bool:
    try:
        return 0 < settings.rounds <= int(summary(folder)["rounds_done"])
    except StateError:  # no run yet
        return False


def _see_through(folder: Path, settings: RunSettings, no: int) -> None:
    """Serves the run, which is over, until every device has answered."""
    need_torch("coordinator")
    from coordinator.delivery.store import DeliveryStore  # noqa: PLC0415
    from coordinator.server.wiring import serve  # noqa: PLC0415 - imports torch

    serve(folder, settings, look(), linger=True)
    mine = [d for _, d in sorted(DeliveryStore(folder).latest().items()) if d.no == no]
    for one in mine:
        why = f": {one.why}" if one.why else ""
        mark = "" if one.verdict == "live" else "problem: "
        say(f"{mark}{one.device}: {one.verdict or 'pending'}{why}")
    if any(one.verdict != "live" for one in mine):
        sys.exit(Exit.FOUND)
