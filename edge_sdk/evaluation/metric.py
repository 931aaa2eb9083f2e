"""`Metric`: what a model is measured by, as sums that parts of a data set add up to.

A metric is two functions. The first makes a short vector of sums from a batch's outputs
and targets; sums of batches, of devices and of rounds are added. The second makes one
number of the summed sums. So a device tells sums and never an example, and the figure
over a fleet is the figure over its examples together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import TaskError, a_type

__all__ = [
    "MOST_SUMS",
    "Metric",
    "MetricFailure",
    "Sums",
    "checked_metrics",
    "loss",
    "mean",
]

Sums: TypeAlias = NDArray[np.float64]
MOST_SUMS = 8192  # 64 KiB: the confusion of 90 classes
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SLACK = 1e-9  # of a range: sums are rounded


class MetricFailure(Exception):  # noqa: N818 - a finding that is told, not raised on
    """A metric that cannot be had, in words; the others go on without it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure of a model, as sums, and which way is better.

    Attributes:
        name: ``[a-z][a-z0-9_]*``, at most 40: a key in logs, tables and displays.
        sums: (outputs, targets) of a batch -> numbers that are added over batches and
            devices: a number, or an array of always the same size. Outputs are the
            model's, targets as the task reads them; both are numpy arrays of (n, ...).
        reduce: (size,) summed sums, float64 -> the metric's value; NaN where the sums
            say nothing, such as the share of no examples.
        higher_is_better: Which way a model improves.
        range: Least and largest value that there can be. A range of (0, 1) is a share:
            displays show it in percent.

    Raises:
        TaskError: If the name or the range is none.

    Example:
        >>> mean_error = Metric(
        ...     "mean_error",
        ...     sums=lambda outputs, targets: [(outputs - targets).sum(), len(targets)],
        ...     reduce=lambda sums: sums[0] / sums[1],
        ...     higher_is_better=False,
        ... )
        >>> mean_error.value(mean_error.of(np.array([1.0, 3.0]), np.array([1.0, 2.0])))
        0.5
    """

    name: str
    sums: Callable[[Any, NDArray[Any]], Any]
    reduce: Callable[[Sums], float]
    higher_is_better: bool = True
    range: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise TaskError(
                f"a metric's name is {self.name!r}",
                remedy="Use small letters, digits and _, a letter first: mean_error.",
            )
        for what in ("sums", "reduce"):
            if not callable(getattr(self, what)):
                raise TaskError(
                    f"metric {self.name}: {what} is no function",
                    remedy="Give two functions: sums(outputs, targets) and "
                    "reduce(sums).",
                )
        low, high = self.range
        if not low < high:
            raise TaskError(
                f"metric {self.name}: range is ({low}, {high})",
                remedy="Give the least and the largest value: range=(0, 1).",
            )

    @property
    def is_share(self) -> bool:
        """True if values are shares in [0, 1], shown in percent."""
        return self.range == (0, 1)

    def of(self, outputs: Any, targets: NDArray[Any]) -> Sums:
        """Sums of one batch, (size,) float64.

        Raises:
            MetricFailure: If the function raises, or gives no finite numbers.
        """
        try:
            found = np.asarray(self.sums(outputs, targets), np.float64).reshape(-1)
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            raise MetricFailure(
                f"its sums raise {type(error).__name__}: {error}"
            ) from error
        if not np.isfinite(found).all():
            raise MetricFailure("its sums hold a NaN or an infinity")
        if not 0 < found.size <= MOST_SUMS:
            raise MetricFailure(
                f"it gives {found.size} sums, not one to {MOST_SUMS} numbers"
            )
        return found

    def value(self, sums: Sums) -> float:
        """The metric's value; NaN where the sums say nothing.

        Raises:
            MetricFailure: If the function raises or the value is out of its range.
        """
        try:
            with np.errstate(all="ignore"):
                found = float(self.reduce(np.array(sums, np.float64)))
        except ZeroDivisionError:
            return math.nan
        except (Exception, SystemExit) as error:  # likewise
            raise MetricFailure(
                f"its reduce raises {type(error).__name__}: {error}"
            ) from error
        low, high = self.range
        slack = _SLACK * max(1.0, abs(found)) if math.isfinite(found) else 0.0
        if math.isinf(found) or found < low - slack or found > high + slack:
            raise MetricFailure(
                f"its value is {found:g}, outside its range {low:g} to {high:g}"
            )
        return min(max(found, low), high) if math.isfinite(found) else found

    def is_better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Return whether a value improves on another by more than `by`."""
        gain = value - than if self.higher_is_better else than - value
        return gain > by


def checked_metrics(task: str, metrics: object) -> tuple[Metric, ...]:
    """A task's metrics as a tuple.

    Raises:
        TaskError: If one of them is none, or two have one name.
    """
    given = [metrics] if isinstance(metrics, Metric) else metrics
    found = tuple(given) if isinstance(given, Sequence) else (given,)
    for one in found:
        if not isinstance(one, Metric):
            made = ": call it, as in metrics=[accuracy()]" if callable(one) else ""
            raise TaskError(
                f"task {task}: metrics hold {a_type(one)}, not a metric{made}",
                remedy="Give edge_sdk.evaluation's, or a Metric of two functions.",
            )
    names = [one.name for one in found]
    if twice := next((n for n in names if names.count(n) > 1), ""):
        raise TaskError(
            f"task {task}: two metrics are named {twice}",
            remedy="Give one of them another name.",
        )
    return found


def _of_the_task(_outputs: Any, _targets: NDArray[Any]) -> Any:
    raise TypeError("the task's loss is summed by who has the task")


def mean(sums: Sums) -> float:
    """The first sum over the second.

    Example:
        >>> mean(np.array([3.0, 4.0]))
        0.75
    """
    return float(sums[0] / sums[1]) if sums[1] else math.nan


# The task's own loss: it is always measured; named in `Task.metrics` it may be first.
loss = Metric("loss", _of_the_task, mean, higher_is_better=False)
