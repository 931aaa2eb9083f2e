"""Result of a simulation: its rounds as arrays, a plot, and models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coordinator.rounds.data_statistics.joined import STATISTICS
from coordinator.server.evaluation import trained_model
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.plots import draw_metric_by_bytes
from coordinator.simulation.record import RoundRecord
from coordinator.simulation.settings import SimulationSettings
from coordinator.views.history import History, drawn, make_history
from edge_sdk.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

__all__ = ["History", "Run", "history_of"]


def history_of(records: list[RoundRecord]) -> History:
    """A run's rounds as columns."""
    return make_history(
        [r.round for r in records],
        [r.loss for r in records],
        [r.total_up for r in records],
        [r.total_down for r in records],
        [r.scores for r in records],
    )


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

    @property
    def statistics(self) -> dict[str, Any] | None:
        """Statistics of all devices' examples; None where the run wanted none.

        ``mean``, ``deviation``, ``classes`` and ``histogram`` are flat lists, ``shape``
        is that of the first two, ``devices`` who counted and ``refused`` who did not.
        """
        memory = SimulationMemory(self.folder, self.records)
        found: dict[str, Any] | None = memory.get(STATISTICS)
        return found

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws the metric of every density against the bytes sent.

        Args:
            axes: Where; None for a new figure, which a notebook shows. Give the axes of
                one run to the next to compare them.

        Raises:
            DependencyError: If matplotlib is not installed.
        """
        with drawn(axes) as found:
            draw_metric_by_bytes(found, {self.settings.algorithm: self.records})
        return found

    def model(self, density: float, *, device: str = "") -> nn.Module:
        """The trained model at one density, in evaluation mode.

        Its weights are dense tensors, exactly 0 where the mask drops them.

        Args:
            density: One of the run's.
            device: Whose personal entries it has; empty for those that training began
                with, which a device has, too, before it has trained.

        Raises:
            DensityError: If the run has no such density; says which it has.
        """
        settings = self.settings
        memory = SimulationMemory(self.folder, self.records)
        reference, seed = settings.task, settings.seed
        model = trained_model(
            self.task, reference, memory, seed, density, settings.adapters
        )
        if own := memory.own(device) if device else {}:
            given = {n: torch.from_numpy(np.array(a)) for n, a in own.items()}
            model.load_state_dict(given, strict=False)
        return model
