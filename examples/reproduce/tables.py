"""The published tables cell by cell: which run a figure comes from, and what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

from coordinator.simulation.presets import PRESETS, RELEASED
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.errors import SettingsError
from examples.reproduce.published import (
    PUBLISHED,
    SALIENT,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    Figure,
)

__all__ = ["TABLES", "Cell", "Kind", "cells_of"]

Kind: TypeAlias = Literal["paper", "released"]


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        name: Of its own.
        settings: Its run, at seed 1.
        density: Where its accuracy is read.
        published: Top-1 accuracy in percent and its deviation, None where none was
            given; None for a run that nobody published.
        folder: As `run`; empty for its name.
        measure: Whether rows below it say how far they are from it.
    """

    name: str
    settings: SimulationSettings
    density: float
    published: Figure | None
    folder: str = ""
    measure: bool = False

    @property
    def run(self) -> str:
        """Of its runs' folders, which cells that read one run share."""
        return self.folder or self.name


def _flash_2(kind: Kind) -> list[Cell]:
    """Largest claim first: FLASH, then what it beats."""
    return [
        _cell(kind, *place, method)
        for place in TABLE_2
        for method in ("flash", "pdst", "nst", "fedavg")
        if (*place, method) in PUBLISHED
    ]


def _flash_3(kind: Kind) -> list[Cell]:
    return [
        _cell(kind, *place, method)
        for place in TABLE_3
        for method in ("flash", "zerofl")
    ]


def _flash_4(kind: Kind) -> list[Cell]:
    return [
        _cell(kind, f"{data}-hetero", alpha, 0.2, "hetero-flash")
        for data, alpha in TABLE_4
    ]


def _controls(kind: Kind) -> list[Cell]:
    """What nobody published: frozen masks that no device was asked for, and lower."""
    methods = ("flash", "equal-counts", "erk", "pdst")
    return [
        _cell(kind, "mnist", 1, density, method)
        for density in (0.05, 0.02, 0.01)
        for method in methods
    ]


def _candidates(kind: Kind) -> list[Cell]:
    """What may become our default, beside FLASH at the same density."""
    methods = ("flash", "flash-lottery", "equal-counts-scaled", "equal-counts")
    halves = ("flash-warm", "flash-learned")  # of flash-lottery
    return [
        _cell(kind, data, 1, 0.05, method)
        for data in ("mnist", "fashion")
        for method in (*methods, *halves)
    ]


def _recipe(kind: Kind) -> list[Cell]:
    """What a new run of ours does, beside FLASH as published."""
    found = []
    for data in ("mnist", "fashion"):
        found.append(_cell(kind, data, 1, 0.05, "flash"))
        ours = (
            ("flash-momentum", f"flash-{data}-momentum"),
            ("ours", f"ours-{data}"),
        )
        for name, preset in ours:
            settings = _settings(preset)
            found.append(Cell(f"{data}-a1-d0.05-{name}", settings, 0.05, None))
    return found


# Every method that keeps one density; salientgrads-steps takes one batch a round.
_METHODS = (
    "flash",
    "equal-counts",
    "pdst",
    "erk",
    "nst",
    "jmwst",
    "jmwst-10",
    "feddst",
    "salientgrads",
    "salientgrads-steps",
    "zerofl",
    "fedavg",
)


def _methods(kind: Kind) -> list[Cell]:
    """Every method at one density, over three degrees of skew."""
    return [
        _cell(kind, "mnist", alpha, 1 if method == "fedavg" else 0.05, method)
        for alpha in (1, 0.1, 1000)
        for method in _METHODS
    ]


def _hetero(kind: Kind) -> list[Cell]:
    """Table 4's fleet beside equal devices at its mean density, theirs and ours."""
    found = [_cell(kind, "mnist", 1, d, "flash") for d in (0.1, 0.155)]
    for method in ("flash-edge", "hetero-flash"):
        found += _each_density(_cell(kind, "mnist-hetero", 1, 0.2, method))
    equal = _settings("ours-mnist", densities=[0.155])
    found.append(Cell("mnist-a1-d0.155-ours", equal, 0.155, None, measure=True))
    unequal = _settings("ours-mnist-hetero")
    return found + _each_density(Cell("mnist-hetero-a1-d0.2-ours", unequal, 0.2, None))


def _each_density(top: Cell) -> list[Cell]:
    """One run's cell at its top density, and at the two below."""
    lower = [
        replace(
            top,
            name=top.name.replace("d0.2", f"d{density:g}"),
            density=density,
            published=None,
            folder=top.name,
        )
        for density in (0.15, 0.1)
    ]
    return [top, *lower]


def _salient_2(kind: Kind) -> list[Cell]:
    """The released code has no cell: its model and algorithm are others."""
    if kind == "released":
        settings = _settings("salientgrads-cifar10-released")
        return [Cell("salientgrads-resnet18-released", settings, 0.1, None)]
    found = []
    for model, figure in SALIENT.items():
        task = f"edge_sdk.zoo.tasks.cifar10:{model}"
        settings = _settings("salientgrads-cifar10", task=task)
        found.append(Cell(f"salientgrads-{model}", settings, 0.1, (figure, None)))
    return found


TABLES: dict[str, Callable[[Kind], list[Cell]]] = {
    "flash-2": _flash_2,
    "flash-3": _flash_3,
    "flash-4": _flash_4,
    "salientgrads-2": _salient_2,
    "controls": _controls,
    "candidates": _candidates,
    "recipe": _recipe,
    "methods": _methods,
    "hetero": _hetero,
}


def cells_of(table: str, kind: Kind) -> list[Cell]:
    """A table's cells, largest claim first.

    Raises:
        SettingsError: If there is no such table.
    """
    if table not in TABLES:
        raise SettingsError(
            f"there is no table {table!r}", remedy=f"Choose one of {', '.join(TABLES)}."
        )
    return TABLES[table](kind)


def _cell(kind: Kind, data: str, alpha: float, density: float, method: str) -> Cell:
    preset = f"flash-{data}" + ("-released" if kind == "released" else "")
    as_drawn = RELEASED.get(method, method) if kind == "released" else method
    more: dict[str, Any] = {"algorithm": as_drawn}
    published = PUBLISHED.get((data, alpha, density, method))
    if "-hetero" not in data:
        more["densities"] = [density]
    if "femnist" not in data:  # its parts are its writers
        more["alpha"] = alpha
    parts = [data] if "femnist" in data else [data, f"a{alpha:g}"]
    name = "-".join([*parts, f"d{density:g}", method])
    if kind == "released":
        name += "-released"
        # NST's published accuracy is that of the union of its devices' masks.
        density = 1 if method == "nst" else density
    settings = _settings(preset, **more)
    return Cell(name, settings, density, published, measure=method == "flash")


def _settings(preset: str, **changes: Any) -> SimulationSettings:
    return msgspec.convert({**PRESETS[preset], **changes}, SimulationSettings)
