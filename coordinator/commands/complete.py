"""Shell completion of names that a person would otherwise look up."""

from __future__ import annotations

from pathlib import Path

import typer

from coordinator.algorithms import ALGORITHMS
from device_profiles import boards
from edge_sdk.tasks.task import SHIPPED

__all__ = ["algorithms", "board_names", "devices", "presets", "tasks"]


def tasks(begun: str) -> list[str]:
    """Tasks that come with the package."""
    return [name for name in sorted(SHIPPED) if name.startswith(begun)]


def algorithms(begun: str) -> list[str]:
    """Algorithms of the table."""
    return [name for name in ALGORITHMS if name.startswith(begun)]


def board_names(begun: str) -> list[str]:
    """Boards of the catalogue."""
    return [name for name in boards() if name.startswith(begun)]


def presets(begun: str) -> list[str]:
    """Published settings of simulations."""
    from coordinator.simulation.presets import PRESETS  # noqa: PLC0415 - late

    return [name for name in PRESETS if name.startswith(begun)]


def devices(context: typer.Context, begun: str) -> list[str]:
    """Devices of the run whose folder was already typed."""
    from coordinator.ledger import read_ledger  # noqa: PLC0415 - late
    from edge_sdk.errors import EdgeError  # noqa: PLC0415

    try:
        # Not converted to a path yet, and None before it was typed.
        ledger = read_ledger(Path(context.params["folder"]))
    except (EdgeError, KeyError, TypeError):
        return []
    try:
        names = [device.name for device in ledger.devices()]
    finally:
        ledger.close()
    return [name for name in names if name.startswith(begun)]
