"""The published tables cell by cell: which run a figure comes from, and what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

from coordinator.simulation.presets import PRESETS, RELEASED
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.errors import SettingsError

__all__ = ["TABLES", "Cell", "Kind", "cells_of"]

Kind: TypeAlias = Literal["paper", "released"]
Figure: TypeAlias = "tuple[float, float | None]"  # mean and deviation, in percent


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
    """

    name: str
    settings: SimulationSettings
    density: float
    published: Figure | None
    folder: str = ""

    @property
    def run(self) -> str:
        """Of its runs' folders, which cells that read one run share."""
        return self.folder or self.name


# FLASH v1, Table 2: (data, alpha, density) -> NST, PDST, FLASH; dense under density 1.
_TABLE_2: dict[tuple[str, float, float], tuple[Figure, ...]] = {
    ("mnist", 1, 0.05): ((95.75, 0.31), (95.34, 0.77), (97.30, 0.26)),
    ("mnist", 0.1, 0.05): ((91.66, 1.74), (91.06, 1.10), (95.70, 0.37)),
    ("mnist", 1000, 0.05): ((95.19, 0.56), (94.80, 1.04), (97.46, 0.14)),
    ("mnist", 1, 0.1): ((97.36, 0.19), (96.82, 0.25), (97.96, 0.13)),
    ("mnist", 0.1, 0.1): ((96.19, 0.22), (94.41, 1.23), (97.22, 0.43)),
    ("mnist", 1000, 0.1): ((97.57, 0.11), (97.09, 0.18), (98.21, 0.06)),
    ("mnist", 1, 1): ((98.76, 0.06),),
    ("mnist", 0.1, 1): ((98.45, 0.17),),
    ("mnist", 1000, 1): ((98.79, 0.06),),
    ("cifar10", 1, 0.05): ((75.10, 0.76), (83.33, 0.14), (85.64, 0.58)),
    ("cifar10", 0.1, 0.05): ((61.29, 2.76), (72.32, 1.05), (75.47, 2.31)),
    ("cifar10", 1000, 0.05): ((77.48, 0.54), (84.38, 0.12), (86.99, 0.14)),
    ("cifar10", 1, 0.1): ((83.46, 0.19), (85.07, 0.24), (86.42, 0.49)),
    ("cifar10", 0.1, 0.1): ((71.18, 1.23), (74.82, 0.72), (76.74, 1.46)),
    ("cifar10", 1000, 0.1): ((84.89, 0.26), (86.72, 0.09), (88.00, 0.28)),
    ("cifar10", 1, 1): ((87.13, 0.18),),
    ("cifar10", 0.1, 1): ((77.64, 0.49),),
    ("cifar10", 1000, 1): ((88.56, 0.06),),
    ("femnist", 1, 0.05): ((61.90, 2.60), (63.65, 0.86), (81.18, 0.36)),
    ("femnist", 1, 0.1): ((76.92, 0.42), (76.01, 1.26), (82.70, 0.26)),
    ("femnist", 1, 1): ((84.68, 0.20),),
}
# Table 3: (data, alpha, density) -> ZeroFL, FLASH.
_TABLE_3: dict[tuple[str, float, float], tuple[Figure, Figure]] = {
    ("cifar10", 1000, 0.05): ((78.22, 0.35), (86.99, 0.14)),
    ("cifar10", 1, 0.05): ((75.54, 1.15), (85.64, 0.58)),
    ("cifar10", 1000, 0.1): ((82.71, 0.37), (88.00, 0.28)),
    ("cifar10", 1, 0.1): ((81.04, 0.28), (86.42, 0.49)),
    ("femnist", 1, 0.05): ((77.16, 2.07), (81.18, 0.36)),
}
# Table 4: (data, alpha) -> hetero-FLASH at the largest of its densities.
_TABLE_4: dict[tuple[str, float], Figure] = {
    ("mnist", 1): (98.29, 0.09),
    ("mnist", 0.1): (97.63, 0.22),
    ("mnist", 1000): (98.29, 0.05),
    ("cifar10", 1): (86.16, 0.04),
    ("cifar10", 0.1): (75.23, 1.26),
    ("cifar10", 1000): (87.19, 0.26),
    ("femnist", 1): (82.58, 0.24),
}
# SalientGrads, Table 2, 90 % sparse.
_SALIENT: dict[str, float] = {
    "resnet20": 84.62,
    "resnet32": 90.52,
    "resnet44": 89.65,
    "resnet56": 93.74,
    "resnet110": 93.25,
}


def _flash_2(kind: Kind) -> list[Cell]:
    found = []
    for (data, alpha, density), figures in _TABLE_2.items():
        methods = ("nst", "pdst", "flash") if len(figures) > 1 else ("fedavg",)
        for method, figure in reversed(list(zip(methods, figures, strict=True))):
            found.append(_cell(kind, data, alpha, density, method, figure))
    return found


def _flash_3(kind: Kind) -> list[Cell]:
    found = []
    for (data, alpha, density), (zerofl, flash) in _TABLE_3.items():
        found.append(_cell(kind, data, alpha, density, "flash", flash))
        found.append(_cell(kind, data, alpha, density, "zerofl", zerofl))
    return found


def _flash_4(kind: Kind) -> list[Cell]:
    return [
        _cell(kind, f"{data}-hetero", alpha, 0.2, "hetero-flash", figure)
        for (data, alpha), figure in _TABLE_4.items()
    ]


def _controls(kind: Kind) -> list[Cell]:
    """What nobody published: frozen masks that no device was asked for, and lower."""
    methods = ("flash", "equal-counts", "erk", "pdst")
    return [
        _cell(kind, "mnist", 1, density, method, None)
        for density in (0.05, 0.02, 0.01)
        for method in methods
    ]


def _candidates(kind: Kind) -> list[Cell]:
    """What may become our default, beside FLASH at the same density."""
    methods = ("flash", "flash-lottery", "equal-counts-scaled", "equal-counts")
    halves = ("flash-warm", "flash-learned")  # of flash-lottery
    return [
        _cell(kind, data, 1, 0.05, method, None)
        for data in ("mnist", "fashion")
        for method in (*methods, *halves)
    ]


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
        _cell(kind, "mnist", alpha, 1 if method == "fedavg" else 0.05, method, None)
        for alpha in (1, 0.1, 1000)
        for method in _METHODS
    ]


def _hetero(kind: Kind) -> list[Cell]:
    """Table 4's fleet, beside equal devices at its mean density of 0.155."""
    found = [_cell(kind, "mnist", 1, d, "flash", None) for d in (0.1, 0.155)]
    for method in ("flash-edge", "hetero-flash"):
        top = _cell(kind, "mnist-hetero", 1, 0.2, method, None)
        found.append(top)
        found += [
            replace(
                top,
                name=top.name.replace("d0.2", f"d{d:g}"),
                density=d,
                folder=top.name,
            )
            for d in (0.15, 0.1)
        ]
    return found


def _salient_2(kind: Kind) -> list[Cell]:
    """The released code has no cell: its model and algorithm are others."""
    if kind == "released":
        settings = _settings("salientgrads-cifar10-released")
        return [Cell("salientgrads-resnet18-released", settings, 0.1, None)]
    found = []
    for model, figure in _SALIENT.items():
        task = f"edge_sdk.models.tasks.cifar10:{model}"
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


def _cell(
    kind: Kind,
    data: str,
    alpha: float,
    density: float,
    method: str,
    published: Figure | None,
) -> Cell:
    preset = f"flash-{data}" + ("-released" if kind == "released" else "")
    as_drawn = RELEASED.get(method, method) if kind == "released" else method
    more: dict[str, Any] = {"algorithm": as_drawn}
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
    return Cell(name, _settings(preset, **more), density, published)


def _settings(preset: str, **changes: Any) -> SimulationSettings:
    return msgspec.convert({**PRESETS[preset], **changes}, SimulationSettings)
