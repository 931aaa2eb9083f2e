"""`History`: a run's rounds as columns, for notebooks and plots."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.ledger import UpdateRow
from edge_sdk.errors import DependencyError

__all__ = ["History", "mean_loss"]


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


def mean_loss(rows: Sequence[UpdateRow]) -> float | None:
    """Mean training loss over devices, each counting the same; None of no device."""
    found = [row.metrics["loss"] for row in rows if "loss" in row.metrics]
    return float(np.mean(found)) if found else None
