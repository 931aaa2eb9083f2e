"""The methods and controls of the table, and the rates each is tuned over."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

__all__ = [
    "CONTROLS",
    "FLEET",
    "GRID",
    "LADDER",
    "METHODS",
    "TABLE",
    "WARM_UP",
    "WITH_WARM_UP",
    "Method",
    "Rate",
]

LADDER = (0.05, 0.1, 0.2)
FLEET = ((0.3, 0.2), (0.3, 0.1), (0.4, 0.05))  # share of the devices, density
MEAN = round(sum(share * density for share, density in FLEET), 4)


@dataclass(frozen=True)
class Rate:
    """A point of the grid.

    Attributes:
        rate: The first round's; the last has a tenth.
        momentum: Of SGD on the device.
    """

    rate: float
    momentum: float

    def __str__(self) -> str:
        return f"{self.rate:g}-{self.momentum:g}"


GRID = [Rate(*point) for point in product((0.05, 0.1, 0.2, 0.3), (0.0, 0.9))]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: The row's.
        algorithm: Of the run.
        densities: Of the run; one of an equal fleet.
        more: Other settings of the run.
    """

    name: str
    algorithm: str
    densities: tuple[float, ...] = LADDER
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def fleet(self) -> list[dict[str, float]]:
        """Rows of `coordinator.simulate`; none of an equal fleet."""
        if len(self.densities) == 1:
            return []
        return [{"share": share, "density": density} for share, density in FLEET]


CONTROLS = [
    *(
        Method(f"everybody at {density:g}", "flash-edge", (density,))
        for density in (0.05, 0.1, MEAN, 0.2)
    ),
    Method("flash, everybody at 0.05", "flash", (0.05,)),
    Method("dense FedAvg", "fedavg", (1.0,)),
]
TABLE = [
    Method("flash-edge", "flash-edge"),
    Method("hetero-flash", "hetero-flash"),
    Method("heterofl", "heterofl"),
    Method("fjord", "fjord"),
    *CONTROLS,
]
# Each row with a warm-up and the same without one: another question, asked by name.
WARM_UP = {
    "flash-edge": Method("flash-edge, no warm-up", "flash-edge(epochs=0)"),
    **{
        f"everybody at {density:g}": Method(
            f"everybody at {density:g}, no warm-up", "flash-edge(epochs=0)", (density,)
        )
        for density in LADDER
    },
    **{
        f"flash, everybody at {density:g}": Method(
            f"equal-counts, everybody at {density:g}", "equal-counts", (density,)
        )
        for density in LADDER
    },
}
# A row without a warm-up takes the rate of its row with one: one change at a time.
WITH_WARM_UP = {method.name: name for name, method in WARM_UP.items()}
FLASH = [Method(f"flash, everybody at {d:g}", "flash", (d,)) for d in LADDER]
METHODS = {m.name: m for m in (*TABLE, *WARM_UP.values(), *FLASH)}
