"""Access rules for a broker of the operator's own."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.broker.policies import POLICIES, policy_for
from coordinator.commands.options import SETTINGS, Folder
from coordinator.settings import load_run
from edge_sdk.errors import SettingsError
from edge_sdk.terminal import Json, tell
from edge_sdk.transport.configured import broker_address

__all__ = ["policy"]


def policy(
    folder: Folder,
    kind: Annotated[
        str,
        typer.Option(
            "--for", help=f"One of {', '.join(POLICIES)}; the run's own if not given."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Print the access rules of FOLDER's federation for a broker of your own."""
    settings = load_run(folder / SETTINGS)
    if not kind and settings.broker:
        kind = broker_address(settings).limits.name
    kind = kind or "mosquitto"
    if kind not in POLICIES:
        raise SettingsError(
            f"--for {kind} is no kind of broker that rules are known for",
            remedy=f"Take one of {', '.join(POLICIES)}.",
        )
    text = policy_for(kind, settings.federation)
    tell({"for": kind, "policy": text}, text.rstrip("\n"), as_json=as_json)
