"""Results of a federation of real devices: rounds as arrays, a picture, models."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coordinator.ledger import read_ledger
from coordinator.settings import RunSettings
from coordinator.views.history import History, mean_loss
from coordinator.views.ledger_view import read_run
from coordinator.views.round_view import RoundView
from edge_sdk.errors import DependencyError
from edge_sdk.tasks.task import load_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

__all__ = ["FederationRun", "round_line"]


@dataclass(frozen=True, eq=False)
class FederationRun:
    """A run's folder as a notebook reads it, while it runs and afterwards.

    Attributes:
        folder: The run's.
        settings: Of its ``run.toml``.
    """

    folder: Path
    settings: RunSettings = field(repr=False)

    @property
    def history(self) -> History:
        """The rounds that gave a model; the columns of a simulation's."""
        rounds, losses = self._rounds()
        found = History(
            round=np.array([r.no for r in rounds], np.int64),
            loss=np.array([math.nan if x is None else x for x in losses], np.float64),
            bytes_up=np.cumsum([r.up_bytes for r in rounds], dtype=np.int64),
            bytes_down=np.cumsum([r.down_bytes for r in rounds], dtype=np.int64),
        )
        scores = [r.scores or {} for r in rounds]
        scored = [(d, m) for by in scores for d, one in by.items() for m in one]
        for density, metric in dict.fromkeys(scored):
            values = [(by.get(density) or {}).get(metric) for by in scores]
            found[f"{metric}@{density}"] = np.array(
                [math.nan if v is None else v for v in values], np.float64
            )
        return found

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the metric of every density against the bytes of all devices so far.

        Args:
            axes: Where; None for a new figure.

        Raises:
            DependencyError: If matplotlib is not installed.
        """
        if importlib.util.find_spec("matplotlib") is None:
            raise DependencyError(
                "matplotlib is not installed",
                remedy="Run `pip install 'flash-edge[plots]'`.",
            )
        if axes is None:
            from matplotlib import pyplot  # noqa: PLC0415 - an extra

            _, axes = pyplot.subplots(layout="constrained")
        history = self.history
        moved = (history["bytes_up"] + history["bytes_down"]) / 1e6
        shown = [c for c in history if "@" in c and not c.startswith("loss@")]
        for column in shown or [c for c in history if "@" in c]:
            axes.plot(moved, history[column], label=column.replace("@", ", d = "))
        axes.set_xlabel("MB up and down, all devices, warm-up included")
        axes.grid(visible=True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        return axes

    def model(self, density: float) -> nn.Module:
        """The last round's model at one density, in evaluation mode.

        Its weights are dense tensors, exactly 0 where the mask drops them.

        Raises:
            DensityError: If the run has no such density; says which it has.
            StateError: If its warm-up is not done yet.
        """
        from coordinator.server.evaluation import trained_model  # noqa: PLC0415 - torch

        settings = self.settings
        task = load_task(settings.task, beside=self.folder)
        ledger = read_ledger(self.folder)
        try:
            return trained_model(task, settings.task, ledger, settings.seed, density)
        finally:
            ledger.close()

    def _rounds(self) -> tuple[list[RoundView], list[float | None]]:
        """The rounds that gave a model, and the mean training loss of each."""
        ledger = read_ledger(self.folder)
        try:
            view = read_run(self.settings, ledger)
            done = [r for r in view.rounds if r.is_done]
            return done, [mean_loss(ledger.frozen(r.no)) for r in done]
        finally:
            ledger.close()


def round_line(one: RoundView, rounds: int) -> str:
    """Text of a finished round: its updates and scores."""
    scores = ", ".join(
        f"{name} {value:.4g} at {density}"
        for density, metrics in sorted((one.scores or {}).items())
        for name, value in metrics.items()
        if name != "loss" and value is not None
    )
    name = f"round {one.no} of {rounds}" if one.no else "warm-up"
    return f"{name}: {one.accepted} updates{', ' + scores if scores else ''}"
