"""Options that several commands share, and what they ask for before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.errors import DependencyError

__all__ = ["SETTINGS", "Folder", "Insecure", "need_torch"]

Folder = Annotated[Path, typer.Argument(help="The run's folder.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain MQTT; for this machine only.")
]
SETTINGS = "run.toml"


def need_torch() -> None:
    """Refuses to go on without torch.

    Raises:
        DependencyError: Then.
    """
    try:
        import torch  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            "torch is not installed: pip install 'flash-edge[coordinator]'"
        ) from error
