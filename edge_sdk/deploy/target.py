"""The place of delivered models on a device, as its owner set it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.deploy.model_test import ModelTest
from edge_sdk.infer.signature import read_public_key
from edge_sdk.settings import DeviceSettings

__all__ = ["DeployTarget", "place_of"]


@dataclass(frozen=True)
class DeployTarget:
    """The place of delivered models on a device, as its owner set it.

    Attributes:
        root: Folder of the two slots.
        state: The device's state folder; chunks wait there.
        trusted: Raw public key that must sign; None leaves it to the coordinator.
        health: Command that says whether a new model is well.
        home: Folder that it runs in; the current one if not given.
        test: Compares a new model with the live one; None compares none.
    """

    root: Path
    state: Path
    trusted: bytes | None = None
    health: Sequence[str] = ()
    home: Path | None = None
    test: ModelTest | None = None


def place_of(
    settings: DeviceSettings, folder: Path, test: ModelTest | None = None
) -> DeployTarget | None:
    """The `DeployTarget` of a device's settings; None if they name no folder.

    Args:
        settings: The settings.
        folder: Folder of their file.
        test: As `DeployTarget` has it.

    Raises:
        IdentityError: If the key that they name cannot be read.
    """
    if settings.models is None:
        return None
    key = settings.models_key
    trusted = None if key is None else read_public_key(key)
    health, home = tuple(shlex.split(settings.health)), folder.resolve()
    return DeployTarget(settings.models, settings.state, trusted, health, home, test)
