"""`flash-coordinator report`: one file about a run, to be mailed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands.options import Folder
from coordinator.views.report import write_report
from edge_sdk.terminal import Json, tell

__all__ = ["report"]


def report(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option(help="The file. Default: FOLDER/report.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file about FOLDER's run: plots, tables, settings, digests."""
    path = write_report(folder, output)
    tell({"report": str(path)}, f"wrote {path}", as_json=as_json)
