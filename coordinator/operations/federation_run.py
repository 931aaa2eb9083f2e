"""Results of a federation of real devices: rounds as arrays, a picture, models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coordinator.ledger import read_ledger
from coordinator.settings import RunSettings
from coordinator.views.history import History, drawn, make_history, mean_loss
from coordinator.views.ledger_view import read_run
from coordinator.views.round_view import RoundView
from coordinator.views.scores import ShownMetric
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
        rounds, losses, _ = self._rounds()
        return make_history(
            [r.no for r in rounds],
            losses,
            np.cumsum([r.up_bytes for r in rounds], dtype=np.int64).tolist(),
            np.cumsum([r.down_bytes for r in rounds], dtype=np.int64).tolist(),
            [r.scores or {} for r in rounds],
        )

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the metric of every density against the bytes of all devices so far.

        Args:
            axes: Where; None for a new figure.

        Raises:
            DependencyError: If matplotlib is not installed.
        """
        history, metric = self.history, self._rounds()[2]
        moved = (history["bytes_up"] + history["bytes_down"]) / 1e6
        columns = [c for c in history if c.startswith(f"{metric.name}@")]
        with drawn(axes) as found:
            for column in columns:
                found.plot(moved, history[column], label=column.replace("@", ", d = "))
            found.set_xlabel("MB up and down, all devices, warm-up included")
        return found

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
            return trained_model(
                *(task, settings.task, ledger, settings.seed, density),
                settings.adapters,
            )
        finally:
            ledger.close()

    def _rounds(self) -> tuple[list[RoundView], list[float | None], ShownMetric]:
        """The rounds that gave a model, the training loss of each, and the metric."""
        ledger = read_ledger(self.folder)
        try:
            view = read_run(self.settings, ledger)
            done = [r for r in view.rounds if r.is_done]
            return done, [mean_loss(ledger.frozen(r.no)) for r in done], view.metric
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
    of = f" of {rounds}" if rounds else ""
    name = f"round {one.no}{of}" if one.no else "warm-up"
    return f"{name}: {one.accepted} updates{', ' + scores if scores else ''}"
