"""Result of a simulation: its rounds as arrays, a plot, and models."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from coordinator.checkpoints.models import ModelStore
from coordinator.server.global_model import load_model
from coordinator.simulation.checkpoints import SimulationMemory
from coordinator.simulation.plots import draw_metric_by_bytes, need_matplotlib
from coordinator.simulation.record import RoundRecord
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.errors import DensityError, DependencyError
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Task
from edge_sdk.training.rules.moving_masks import dense_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

__all__ = ["History", "Run", "history_of"]


class History(dict[str, NDArray[Any]]):
    """A table as a dict of arrays, (rounds,) each.

    ``round`` (int64; 0 is the warm-up), ``loss`` (float64; the mean training loss),
    ``bytes_up`` and ``bytes_down`` (int64; of all devices and all rounds so far), and
    per density one column per metric, such as ``accuracy@0.05`` (float64). What was not
    measured in a round is NaN.
    """

    def to_pandas(self) -> Any:
        """The same as a ``pandas.DataFrame``, with `round` as its index.

        Raises:
            DependencyError: If pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise DependencyError(
                "pandas is not installed",
                remedy="Run `pip install pandas`; the history itself is a dict of "
                "arrays and needs none.",
            ) from error
        return pandas.DataFrame(self).set_index("round")


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
        with torch.random.fork_rng(devices=[]):
            layers = layers_of(self.task.model(), self.task.dense_layers)
        settings = self.settings
        store = ModelStore(self.folder, settings.task, layers)
        memory = SimulationMemory(self.folder, self.records)
        found = load_model(store, memory, layers, settings.seed)
        assert found is not None  # noqa: S101 - its run has ended
        model, family = found
        if density not in family.masks:
            known = ", ".join(f"{d:g}" for d in family.masks)
            raise DensityError(
                f"the run has no model of density {density!r}",
                remedy=f"Ask for one of {known}.",
            )
        mask = family.masks[density]
        with torch.random.fork_rng(devices=[]):
            return dense_model(self.task, mask, model.on(mask)).eval()
