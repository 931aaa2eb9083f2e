"""Answers of devices that tested a model: their values, alone and together."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from coordinator.ledger.device_rows import TOGETHER, EvaluationRow
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.evaluation.metric import Metric, MetricFailure
from edge_sdk.evaluation.tally import Tally, total, values_of
from edge_sdk.wire.messages import BaseTested, Evaluated

__all__ = ["AnswerWarnings", "answer_row", "together"]

log = logging.getLogger(__name__)


class AnswerWarnings:
    """Log of what is wrong with answers: once for each device, until it changes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._last: dict[str, str] = {}

    def warn(self, row: EvaluationRow, whose: str) -> bool:
        """Logs why an answer is not whole; whether that differs from the last time."""
        differs, self._last[whose] = self._last.get(whose) != row.why, row.why
        if row.why and self._said.get(whose) != row.why:
            log.warning("%s, test of round %d: %s", whose, row.round, row.why)
            self._said[whose] = row.why
        return differs


def answer_row(
    no: int,
    density: float,
    device: str,
    answer: Evaluated | BaseTested,
    metrics: Sequence[Metric],
) -> EvaluationRow:
    """A device's answer with the values that its sums come to.

    Args:
        no: The round that gave the model.
        density: Of the model.
        device: Who answers.
        answer: Its sums.
        metrics: What was asked for.

    Raises:
        RemoteProtocolError: If it gives sums of what was not asked for.
    """
    names = {metric.name for metric in metrics}
    if unasked := sorted({*answer.sums, *answer.failed} - names):
        raise RemoteProtocolError(f"it measures {unasked[0]}, which nobody asked for")
    sums: dict[str, list[float]] = {}
    values: dict[str, float] = {}
    said = [f"{name}: {why}" for name, why in sorted(answer.failed.items())]
    for metric in metrics:
        given = answer.sums.get(metric.name)
        if given is None or metric.name in answer.failed:
            values[metric.name] = math.nan
            continue
        try:
            value = metric.value(np.array(given, np.float64))
        except MetricFailure as why:  # not those sums: they count for nothing
            said.append(f"{metric.name}: {why}")
            value = math.nan
        else:
            sums[metric.name] = list(given)
            if math.isnan(value):
                said.append(f"{metric.name}: its sums say nothing")
        values[metric.name] = value
    return EvaluationRow(
        *(no, density, device, answer.examples),
        sums,
        values,
        "; ".join([*filter(None, [answer.why]), *said])[:500],
    )


def together(rows: Sequence[EvaluationRow], metrics: Sequence[Metric]) -> EvaluationRow:
    """All devices of a density together: the metrics over all of their examples.

    A device whose sums are of another size than most is left out of that metric, and
    named in `why`.

    Args:
        rows: Of one round and density, one per device; at least one.
        metrics: What was measured.
    """
    first, values, odd = rows[0], dict[str, float](), list[str]()
    sums: dict[str, list[float]] = {}
    for metric in metrics:
        given = [row.sums[metric.name] for row in rows if metric.name in row.sums]
        if not given:
            continue
        sizes = [len(one) for one in given]
        size = max(set(sizes), key=lambda n: (sizes.count(n), n))
        counts = {row.device: len(row.sums.get(metric.name, ())) for row in rows}
        others = [one for one, n in counts.items() if n not in (0, size)]
        if others and 2 * len(others) < len(sizes):  # of two, either may be wrong
            odd.append(
                f"{metric.name} is without {', '.join(others)}, whose sums are not of "
                f"{size} numbers: give each device the same task"
            )
        parts = [
            Tally({metric.name: np.array(one, np.float64)})
            for one in given
            if len(one) == size
        ]
        whole = total(parts)
        values |= values_of([metric], whole, f"tests of round {first.round}")
        sums[metric.name] = whole.sums[metric.name].tolist()
    return EvaluationRow(
        *(first.round, first.density, TOGETHER),
        sum(row.examples for row in rows),
        sums,
        values,
        "; ".join(odd)[:500],
    )
