"""Sums of several metrics over parts of a data set, and their values at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.evaluation.metric import Metric, MetricFailure, Sums

__all__ = ["Tally", "total", "values_of"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tally:
    """Sums of some examples.

    Attributes:
        sums: Metric name -> (size,) float64.
        failed: Metric name -> why it has none; the others go on without it.
        examples: How many were looked at.
    """

    sums: Mapping[str, Sums] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    examples: int = 0

    def plus(self, more: Tally) -> Tally:
        """Both together; a metric that failed in one has failed."""
        sums, failed = dict(self.sums), {**more.failed, **self.failed}
        for name, one in more.sums.items():
            before = sums.get(name)
            if before is not None and before.shape != one.shape:
                failed.setdefault(
                    name,
                    f"its sums are {before.size} numbers and then {one.size}: give "
                    "always as many",
                )
            else:
                sums[name] = one if before is None else before + one
        kept = {name: one for name, one in sums.items() if name not in failed}
        return Tally(kept, failed, self.examples + more.examples)

    def of_batch(
        self,
        metrics: Sequence[Metric],
        outputs: Any,
        targets: NDArray[Any],
        losses: float | None = None,
    ) -> Tally:
        """The tally with one more batch.

        Args:
            metrics: What is measured; one that failed before is passed over.
            outputs: Of the model, arrays.
            targets: (n, ...).
            losses: The sum of the batch's losses; None where the loss is not known.
        """
        sums, failed, count = {}, {}, len(targets)
        for metric in metrics:
            if metric.name in self.failed or metric.name == "loss":
                continue
            try:
                sums[metric.name] = metric.of(outputs, targets)
            except MetricFailure as why:
                failed[metric.name] = str(why)
        if losses is not None:
            sums["loss"] = np.array([losses, count], np.float64)
        return self.plus(Tally(sums, failed, count))


def total(parts: Iterable[Tally]) -> Tally:
    """All parts together, in their order."""
    found = Tally()
    for part in parts:
        found = found.plus(part)
    return found


def values_of(metrics: Sequence[Metric], found: Tally, what: str) -> dict[str, float]:
    """Metric name to its value, in the metrics' order.

    One that failed is NaN, and the log says why; one whose sums are all 0 measured
    nothing and is left out.

    Args:
        metrics: What was measured.
        found: The sums.
        what: Whose, for the log: ``task blobs``.
    """
    values = {}
    for metric in metrics:
        sums, why = found.sums.get(metric.name), found.failed.get(metric.name)
        if sums is not None and not sums.any():
            continue
        if sums is not None:
            try:
                values[metric.name] = metric.value(sums)
            except MetricFailure as failure:
                why = str(failure)
        if why is not None:
            log.warning("%s: metric %s has no value: %s", what, metric.name, why)
            values[metric.name] = math.nan
    return values
