"""Options that several commands share, and what they ask for before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.errors import DependencyError

__all__ = ["OWN", "Key", "need_torch", "public_key"]

OWN = ("device.toml", "identity", "state")  # what `enroll` writes into a folder
Key = Annotated[
    Path | None, typer.Option(help="Public key (PEM) that must have signed the bundle.")
]


def need_torch(extra: str = "device") -> None:
    """Refuses to go on without torch, which the extra brings.

    Raises:
        DependencyError: Then.
    """
    try:
        import torch  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            f"torch is not installed: pip install 'flash-edge[{extra}]'"
        ) from error


def public_key(path: Path | None) -> bytes | None:
    """The key of a PEM file, if one is named.

    Raises:
        ExportError: If it is no Ed25519 public key.
    """
    from edge_sdk.infer.signature import read_public_key  # noqa: PLC0415

    return None if path is None else read_public_key(path)
