"""Pictures of simulated runs: the metric by round and by bytes, masks by round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.simulation.record import RoundRecord, read_records
from coordinator.views.history import need_matplotlib
from coordinator.views.scores import metric_of
from edge_sdk.errors import StateError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_metric_by_bytes", "draw_plots"]

Runs = Mapping[str, Sequence[RoundRecord]]


def draw_plots(out: Path, folders: Sequence[Path]) -> list[Path]:
    """Writes four PNG files into `out`, each with a line per run and density.

    Args:
        out: Made if missing.
        folders: Runs' folders; their names label the lines.

    Raises:
        DependencyError: If matplotlib is not installed.
        StateError: If a folder holds no finished round.
    """
    need_matplotlib()
    runs = {folder.name: read_records(folder) for folder in folders}
    for name, records in runs.items():
        if len(records) < 2:
            raise StateError(
                f"{name} holds no finished round", remedy="Simulate it first."
            )
    out.mkdir(parents=True, exist_ok=True)
    return [_draw(out / f"{name}.png", plot, runs) for name, plot in PLOTS.items()]


def _draw(path: Path, plot: Callable[[Axes, Runs], None], runs: Runs) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # no display, and no state of pyplot's
    axes = figure.add_subplot()
    plot(axes, runs)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    return path


def _metric_by_round(axes: Axes, runs: Runs) -> None:
    _metric(axes, runs, lambda record: float(record.round))
    axes.set_xlabel("round")


def draw_metric_by_bytes(axes: Axes, runs: Runs) -> None:
    """A line per run and density: the metric against bytes of all devices so far."""
    _metric(axes, runs, lambda record: (record.total_up + record.total_down) / 1e6)
    axes.set_xlabel("MB up and down, all devices, warm-up included")
    axes.set_xscale("log")


def _metric(axes: Axes, runs: Runs, place: Callable[[RoundRecord], float]) -> None:
    every = (s for records in runs.values() for r in records for s in r.scores.values())
    told = (r.metric for records in runs.values() for r in reversed(records))
    metric = metric_of(every, next(filter(None, told), None))
    scale = 100.0 if metric.is_share else 1.0
    for name, records in runs.items():
        scored = [r for r in records if r.scores]
        for density in scored[-1].scores if scored else ():
            values = [
                scale * r.scores[density].get(metric.name, math.nan) for r in scored
            ]
            axes.plot(
                [place(r) for r in scored], values, label=f"{name}, d = {density}"
            )
    unit = ", %" if metric.is_share else ""
    axes.set_ylabel(f"{metric.words} at the deployed density{unit}")


def _layer_densities(axes: Axes, runs: Runs) -> None:
    for name, records in runs.items():
        layers = next(iter(reversed(list(records[-1].layers.values()))), {})
        axes.plot(list(layers), list(layers.values()), "o-", label=name)
    axes.set_ylabel("layer density, smallest mask")
    axes.set_yscale("log")
    axes.tick_params("x", rotation=90, labelsize="x-small")


def _mismatch(axes: Axes, runs: Runs) -> None:
    for name, records in runs.items():
        rounds = [r for r in records if r.round]
        axes.plot([r.round for r in rounds], [r.mismatch for r in rounds], label=name)
    axes.set_xlabel("round")
    axes.set_ylabel("mask mismatch to the round before")


PLOTS: Mapping[str, Callable[[Axes, Runs], None]] = {
    "metric-by-round": _metric_by_round,
    "metric-by-bytes": draw_metric_by_bytes,
    "layer-densities": _layer_densities,
    "mask-mismatch": _mismatch,
}
