"""`History`: a run's rounds as columns, for notebooks and plots."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coordinator.ledger import UpdateRow
from edge_sdk.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["History", "drawn", "make_history", "mean_loss", "need_matplotlib"]

Scores = Mapping[str, Mapping[str, float | None]]  # density -> metric -> value


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


def make_history(
    rounds: Sequence[int],
    losses: Sequence[float | None],
    up: Sequence[int],
    down: Sequence[int],
    scores: Sequence[Scores],
) -> History:
    """Columns of these rounds, (rounds,) each; None becomes NaN.

    Args:
        rounds: Their numbers.
        losses: Mean training losses.
        up: Bytes of all devices and all rounds so far; `down` likewise.
        down: As `up`.
        scores: Of each round's model.
    """

    def floats(values: Iterator[float | None]) -> NDArray[np.float64]:
        return np.array([math.nan if v is None else v for v in values], np.float64)

    found = History(
        round=np.array(rounds, np.int64),
        loss=floats(iter(losses)),
        bytes_up=np.array(up, np.int64),
        bytes_down=np.array(down, np.int64),
    )
    measured = [(d, m) for by in scores for d, one in by.items() for m in one]
    for density, metric in dict.fromkeys(measured):
        values = ((by.get(density) or {}).get(metric) for by in scores)
        found[f"{metric}@{density}"] = floats(values)
    return found


def need_matplotlib() -> None:
    """Refuses to draw without it.

    Raises:
        DependencyError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise DependencyError(
            "matplotlib is not installed",
            remedy="Run `pip install 'flash-edge[plots]'`.",
        )


@contextmanager
def drawn(axes: Axes | None) -> Iterator[Axes]:
    """Axes to draw lines on, with a grid and a legend afterwards.

    Args:
        axes: Where; None for a new figure, which a notebook shows.

    Raises:
        DependencyError: If matplotlib is not installed.
    """
    need_matplotlib()
    if axes is None:
        from matplotlib import pyplot  # noqa: PLC0415 - an extra

        _, axes = pyplot.subplots(layout="constrained")
    yield axes
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def mean_loss(rows: Sequence[UpdateRow]) -> float | None:
    """Mean training loss over devices, each counting the same; None of no device."""
    found = [row.metrics["loss"] for row in rows if "loss" in row.metrics]
    return float(np.mean(found)) if found else None
