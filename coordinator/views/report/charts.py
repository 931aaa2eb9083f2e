"""Figures of the report: points, axes and words; the page's script draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from coordinator.views.run_view import RunView
from coordinator.views.scores import percent
from coordinator.views.units import human_bytes

__all__ = ["Axis", "Figure", "Kind", "figures", "in_words"]

Kind = Literal["bytes", "count", "number", "percent"]
Value = float | None


@dataclass(frozen=True, slots=True)
class Axis:
    """Axis of a figure: what it counts, and the kind of its values."""

    label: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Figure:
    """A line chart and its numbers."""

    title: str  # its heading
    x: Axis  # what is counted from left to right
    y: Axis  # what is counted upwards
    at: tuple[float, ...]  # places on x, ascending
    # name of each line to its values, one for each place; None where nothing finite was
    # measured
    series: Mapping[str, tuple[Value, ...]]

    @property
    def is_empty(self) -> bool:
        """True if nothing was measured."""
        return all(v is None for values in self.series.values() for v in values)

    @property
    def spec(self) -> dict[str, Any]:
        """The figure as ``drawChart`` of static/charts.js takes it."""
        return {
            "title": self.title,
            "x": {"label": self.x.label, "kind": self.x.kind, "values": list(self.at)},
            "y": {"label": self.y.label, "kind": self.y.kind},
            "series": [
                {"name": name, "values": list(values)}
                for name, values in self.series.items()
            ],
        }

    @property
    def last(self) -> list[tuple[str, str]]:
        """Name and last value of each line, in words."""
        return [
            (name, in_words(values[-1] if values else None, self.y.kind))
            for name, values in self.series.items()
        ]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Of the table: names, and that they hold numbers."""
        return [(name, "n") for name in (self.x.label, *self.series)]

    @property
    def rows(self) -> list[list[str]]:
        """The same as a table, the newest first: x, then the value of each line."""
        lines = list(self.series.values())
        found = [
            [in_words(at, self.x.kind), *(in_words(v[i], self.y.kind) for v in lines)]
            for i, at in enumerate(self.at)
        ]
        return found[::-1]


def in_words(value: Value, kind: Kind) -> str:
    """A value as static/units.js has it.

    Example:
        >>> in_words(0.5, "percent"), in_words(2048, "bytes"), in_words(12.0, "count")
        ('50.00 %', '2.0 KiB', '12')
        >>> in_words(0.123456, "number"), in_words(None, "number")
        ('0.1235', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    match kind:
        case "percent":
            return percent(value)
        case "bytes":
            return human_bytes(value)
        case "count":
            return f"{value:,.0f}"
        case "number":
            return f"{value:.4g}"


def figures(view: RunView) -> list[Figure]:
    """A run's figures: its metric by round and by bytes, its bytes against dense."""
    metric, rounds = view.metric, view.rounds
    moved = accumulate(r.up_bytes + r.down_bytes for r in rounds)
    scored = [
        (r.no, n, r.scores) for r, n in zip(rounds, moved, strict=True) if r.scores
    ]
    series = {
        f"density {density:g}": tuple(
            metric.of(scores.get(str(density))) for _, _, scores in scored
        )
        for density in view.run.densities
    }
    y = Axis(metric.words, "percent" if metric.is_share else "number")
    title = metric.words[:1].upper() + metric.words[1:]
    by = view.savings.by_round if view.savings else ()
    return [
        Figure(
            f"{title} by round",
            Axis("round", "count"),
            y,
            tuple(float(no) for no, _, _ in scored),
            series,
        ),
        Figure(
            f"{title} by bytes",
            Axis("updates and models sent", "bytes"),
            y,
            tuple(float(n) for _, n, _ in scored),
            series,
        ),
        Figure(
            "Bytes, compared with dense",
            Axis("round", "count"),
            Axis("bytes moved", "bytes"),
            tuple(float(row.no) for row in by),
            {
                "this run": tuple(float(row.bytes) for row in by),
                "dense float32": tuple(float(row.dense_bytes) for row in by),
            },
        ),
    ]
