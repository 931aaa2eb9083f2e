"""Options that several commands share, and what they ask for before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.private_files import keep_private

__all__ = ["SETTINGS", "Folder", "Insecure", "own_folder"]

Folder = Annotated[Path, typer.Argument(help="The run's folder.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain MQTT; for this machine only.")
]
SETTINGS = "run.toml"
# What a run writes into its folder.
OWN = (
    *("run.toml", "ledger.sqlite*", "identity.sqlite*", "lock", "port", "report.html"),
    *("blobs", "broker", "broker.url", "checkpoints", "models", "models.*.pem"),
    *("coordinator.jsonl*", "page.*", "deliveries", "exports", "tensorboard"),
    "proof.zip",
)


def own_folder(folder: Path) -> None:
    """Makes a run's folder its user's alone, with all that this process writes.

    Raises:
        StateError: If it cannot be made.
    """
    keep_private(folder, OWN)
