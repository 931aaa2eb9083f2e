"""Where a chart's marks stand, in SVG units: pure geometry, drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Axis",
    "Curve",
    "Curves",
    "Mark",
    "Point",
    "Rows",
    "curves",
    "ticks",
]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 36
LOOKS = 6  # line colours of the style sheet
DOTS = 60  # more points than this make a line of dots
ROW = 22  # height of one layer
NAMES = 190  # room for a layer's name

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis with its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it counts and its marks."""

    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its colour's number, its path, its dots, its last value in words."""

    name: str
    look: int
    path: str
    dots: tuple[Point, ...]
    last: str


@dataclass(frozen=True, slots=True)
class Curves:
    """A line chart."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Curve, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True, slots=True)
class Rows:
    """The frame of a chart with a row per layer, shares from left to right.

    Attributes:
        count: Rows.
    """

    count: int
    left: int = NAMES
    row: int = ROW

    @property
    def width(self) -> int:
        """All of it, in SVG units."""
        return WIDTH

    @property
    def height(self) -> int:
        """All of it, in SVG units."""
        return self.count * ROW + 24

    def x(self, share: float) -> float:
        """Where a share in [0, 1] stands.

        Example:
            >>> Rows(3).x(0.0), Rows(3).x(1.0)
            (190.0, 548.0)
        """
        return round(NAMES + share * (WIDTH - RIGHT - NAMES), 1)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About so many round values from low to high.

    Example:
        >>> ticks(0, 20, 5), ticks(0.43, 0.58, 3)
        ([0.0, 5.0, 10.0, 15.0, 20.0], [0.45, 0.5, 0.55])
    """
    rough = (high - low) / wanted or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(k * step, 12) for k in range(first, last + 1)]


def curves(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x: tuple[str, Callable[[float], str]],
    y: tuple[str, Callable[[float], str]],
    whole: bool = False,
) -> Curves | None:
    """A line chart from x = 0; None where nothing was measured.

    Args:
        title: Of the chart.
        series: Points of each line.
        x: What the x axis counts, and how its values read.
        y: The same of the y axis.
        whole: Whether x counts things, which have no halves.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    x1 = max(*(a for a, _ in points), 1e-9)
    y0, y1 = min(b for _, b in points), max(b for _, b in points)
    pad = (y1 - y0) * 0.05 or 0.01
    y0, y1 = y0 - pad, y1 + pad

    def place(point: Point) -> Point:
        right, up = point[0] / x1, (point[1] - y0) / (y1 - y0)
        return (
            round(LEFT + right * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def axis(label: str, values: Iterable[float], name: Callable[[float], str]) -> Axis:
        side = 0 if label == x[0] else 1
        at = [
            (place((v, y0) if side == 0 else (0.0, v))[side], name(v)) for v in values
        ]
        named = {text: Mark(where, text) for where, text in at}  # no text twice
        return Axis(label, tuple(named.values()))

    across = [v for v in ticks(0, x1, 6) if v.is_integer() or not whole]
    return Curves(
        title,
        axis(x[0], across, x[1]),
        axis(y[0], ticks(y0, y1, 5), y[1]),
        tuple(
            _curve(name, i, [place(p) for p in line], y[1](line[-1][1]))
            for i, (name, line) in enumerate(series.items())
            if line
        ),
    )


def _curve(name: str, place: int, points: list[Point], last: str) -> Curve:
    path = "L".join(f"{a:g} {b:g}" for a, b in points)
    dots = tuple(points) if len(points) < DOTS else ()
    return Curve(name, place % LOOKS, f"M{path}", dots, last)
