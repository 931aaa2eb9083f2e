"""`flash-coordinator track`: a run's figures to where runs are compared."""

from __future__ import annotations

import threading
from typing import Annotated, cast

import typer

from coordinator.commands.options import Folder
from coordinator.views.track import track as write_figures
from coordinator.views.track.follow import Place
from edge_sdk.errors import SettingsError
from edge_sdk.terminal import Json, on_stop, tell

__all__ = ["track"]

PLACES = ("tensorboard", "mlflow")


def track(
    folder: Folder,
    to: Annotated[str, typer.Option(help="tensorboard or mlflow.")],
    where: Annotated[
        str | None,
        typer.Option(help="TensorBoard's log directory, or MLflow's tracking URI."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Continue until the run is done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the figures of FOLDER's run to TensorBoard or MLflow, round by round."""
    if to not in PLACES:
        raise SettingsError(f"--to {to!r} is none of {', '.join(PLACES)}")
    stop = threading.Event()
    on_stop(stop.set)
    place = cast("Place", to)
    count = write_figures(folder, place, where, follow=follow, stop=stop)
    tell({"to": to, "rounds": count}, f"wrote {count} rounds to {to}", as_json=as_json)
