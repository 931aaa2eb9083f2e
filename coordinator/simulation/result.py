"""Result of a simulation: its rounds as arrays, a plot, and models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coordinator.server.evaluation import trained_model
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.plots import draw_metric_by_bytes, need_matplotlib
from coordinator.simulation.record import RoundRecord
from coordinator.simulation.settings import SimulationSettings
from coordinator.views.history import History
from edge_sdk.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

__all__ = ["History", "Run", "history_of"]


def history_of(records: list[RoundRecord]) -> History:
    """A run's rounds as columns."""
    found = History(
        round=np.array([r.round for r in records], np.int64),
        loss=np.array([math.nan if r.loss is None else r.loss for r in records]),
        bytes_up=np.array([r.total_up for r in records], np.int64),
        bytes_down=np.array([r.total_down for r in records], np.int64),
    )
    measured = [(d, m) for r in records for d, s in r.scores.items() for m in s]
    for density, metric in dict.fromkeys(measured):
        found[f"{metric}@{density}"] = np.array(
            [r.scores.get(density, {}).get(metric, math.nan) for r in records],
            np.float64,
        )
    return found


@dataclass(frozen=True, eq=False)
class Run:
    """A simulation that has ended.

    Attributes:
        folder: Its settings, metrics, checkpoints and, where examples were given as
            arrays, the examples.
        task: What was trained.
        settings: How.
        records: Its rounds, as in ``metrics.jsonl``.
    """

    folder: Path
    task: Task = field(repr=False)
    settings: SimulationSettings = field(repr=False)
    records: list[RoundRecord] = field(repr=False)

    @property
    def history(self) -> History:
        """The rounds as a dict of arrays; see `History` for its columns."""
        return history_of(self.records)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the metric of every density against the bytes sent.

        Args:
            axes: Where; None for a new figure, which a notebook shows. Give the axes of
                one run to the next to compare them.

        Raises:
            DependencyError: If matplotlib is not installed.
        """
        need_matplotlib()
        if axes is None:
            from matplotlib import pyplot  # noqa: PLC0415 - an extra

            _, axes = pyplot.subplots(layout="constrained")
        draw_metric_by_bytes(axes, {self.settings.algorithm: self.records})
        axes.grid(visible=True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        return axes

    def model(self, density: float) -> nn.Module:
        """The trained model at one density, in evaluation mode.

        Its weights are dense tensors, exactly 0 where the mask drops them.

        Raises:
            DensityError: If the run has no such density; says which it has.
        """
        settings = self.settings
        memory = SimulationMemory(self.folder, self.records)
        return trained_model(self.task, settings.task, memory, settings.seed, density)
