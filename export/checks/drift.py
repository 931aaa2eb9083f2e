"""Permitted drift of a rounded format, by what the model's outputs mean.

| outputs | decides |
|---|---|
| classes, one yes or no, with examples | accuracy lost, answers that stay, error |
| labels or values, with examples | error of the outputs, and growth of the loss |
| either, of a task with metrics | its primary metric for accuracy, or beside the loss |
| anything, without examples | error of the outputs |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import ExportError
from edge_sdk.evaluation.measure import VALUES, Measure
from edge_sdk.evaluation.metric import Metric, MetricFailure
from edge_sdk.training.scoring import arrays_of, measure_of
from export.checks.tolerance import LOSS_PERCENT, Tolerance
from export.rebuild import Inputs, Source
from export.report import Accuracy, OutputDrift

__all__ = [
    "AGREEMENT",
    "OUTPUT_ERROR",
    "check_accuracy",
    "check_drift",
    "check_metric",
    "check_outputs",
    "measure_for",
    "output_error",
    "own_metric",
]

# Root of the mean squared difference over how much the exact outputs vary. int8 gave
# 0.01 to 0.05 on the networks of tests/export, fp16 1e-4 to 1e-3.
OUTPUT_ERROR = 0.1
# Where accuracy is judged, too: answers may stay though outputs are others.
ANSWERS_ERROR = 0.5
# Share of answers that must stay what they were: a model that guesses keeps its
# accuracy whatever becomes of it.
AGREEMENT = 0.9
CLASSES = Measure("classes")

Array = NDArray[np.float32]


def measure_for(source: Source, evaluation: Inputs) -> Measure:
    """Measure of the source's outputs on these examples.

    A module without a task has classes where its examples' targets are: whole numbers,
    one per place, each below the number of outputs there.
    """
    if source.contract is None:
        targets = evaluation.targets
        if targets is None or targets.dtype.kind not in "iu" or targets.min() < 0:
            return VALUES
        shape = source.predict(evaluation.batch[:1]).shape
        places = shape[:1] + shape[2:]
        fits = len(shape) > 1 and places[1:] == targets.shape[1:]
        return CLASSES if fits and targets.max() < shape[1] else VALUES
    if evaluation.raw is None or evaluation.read is None:
        return VALUES
    return measure_of(source.contract, evaluation.read)


def own_metric(source: Source, evaluation: Inputs) -> Metric | None:
    """The task's primary metric; None without one, or without examples for it."""
    if source.contract is None or evaluation.targets is None:
        return None
    found = next(iter(source.contract.metrics), None)
    return None if found is None or found.name == "loss" else found


def _value(metric: Metric, outputs: Any, targets: Any) -> float:
    """The metric's value on these examples.

    Raises:
        ExportError: If it has none.
    """
    try:
        found = metric.value(metric.of(outputs, np.asarray(targets)))
        why = "the examples do not say, such as those of one class alone"
    except MetricFailure as failure:
        found, why = math.nan, str(failure)
    if math.isfinite(found):
        return found
    raise ExportError(
        f"metric {metric.name} has no value on {len(targets)} examples: {why}",
        remedy="Correct the task's metric, or give other examples.",
    )


def output_error(outputs: Array, exact: Array, sizes: Sequence[int] = ()) -> float:
    """Root of the mean squared difference over the deviation of the exact outputs.

    Of the output where it is largest; where one does not vary at all, over its size.

    Args:
        outputs: (n, ...); several outputs flat, one after the other: (n, values).
        exact: Likewise.
        sizes: Values of each of several outputs of one example.
    """
    if len(sizes) > 1:
        ends = np.cumsum(sizes)[:-1]
        parts = (np.split(a, ends, axis=1) for a in (outputs, exact))
        return max(map(output_error, *parts))
    wide, other = exact.astype(np.float64), outputs.astype(np.float64)
    off = float(np.sqrt(np.mean((other - wide) ** 2)))
    if off == 0.0:
        return 0.0
    scale = float(wide.std()) or float(np.sqrt(np.mean(wide**2)))
    return off / scale if scale else float("inf")


def check_accuracy(
    measure: Measure,
    outputs: Array,
    exact: Array,
    evaluation: Inputs,
    points: float,
    metric: Metric | None = None,
) -> Accuracy:
    """Accuracy, or the task's own metric, before and after; answers that stayed.

    On few examples one answer is more than the points allowed (a 182nd is 0.55), and
    chance decides it: one may always be lost, unless `points` is 0.

    Raises:
        ExportError: If more points are lost than allowed, or too many answers changed.
    """
    targets = evaluation.targets
    same = float((measure.answers(exact) == measure.answers(outputs)).mean())
    right: float
    still: float
    if metric is None:
        right, counted = measure.right(exact, targets)
        still, _ = measure.right(outputs, targets)
        name = measure.name
    else:
        name, counted = metric.name, len(evaluation)
        right, still = (counted * _value(metric, a, targets) for a in (exact, outputs))
        if not metric.higher_is_better:
            right, still = counted - right, counted - still
    shares = right / max(counted, 1), still / max(counted, 1)
    found = Accuracy(len(evaluation), *shares, points, same, name)
    remedy = "Use an exact format, more calibration data, or --accuracy-points."
    # In answers, as 100 * (1.0 - 0.995) is above 0.5.
    may = points / 100 * counted
    if right - still > (max(may, 1.0) if points > 0 else may) + 1e-6:
        raise ExportError(
            f"{name} falls from {found.exact:.4f} to {found.exported:.4f} on "
            f"{len(evaluation)} examples: {found.lost_points:.2f} points, {points} "
            "are allowed",
            remedy=remedy,
        )
    if found.same_answers < AGREEMENT:
        raise ExportError(
            f"{100 * (1 - found.same_answers):.1f} % of the answers on "
            f"{len(evaluation)} examples change, {100 * (1 - AGREEMENT):.0f} % may",
            remedy="Use an exact format or more calibration data; a model that hardly "
            "trained has answers that anything changes.",
        )
    return found


def check_drift(
    source: Source,
    outputs: Array,
    exact: Array,
    inputs: Inputs,
    *,
    sizes: Sequence[int] = (),
    loss_percent: float = LOSS_PERCENT,
) -> OutputDrift:
    """Error of the outputs and growth of the loss, both within their limits.

    Args:
        source: Whose loss; none without a task.
        outputs: Of the exported model.
        exact: Of the exact one.
        inputs: What both were given; the loss needs its targets.
        sizes: Values of each of several outputs of one example.
        loss_percent: By how much the loss may grow.

    Raises:
        ExportError: If a limit is passed; the message has the numbers.
    """
    losses = _losses(source, (exact, outputs), inputs)
    found = replace(
        check_outputs(outputs, exact, inputs, sizes, limit=OUTPUT_ERROR),
        loss_exact=losses[0],
        loss_exported=losses[1],
        loss_limit_percent=loss_percent,
    )
    if found.loss_growth_percent > loss_percent:
        raise ExportError(
            f"the loss grows from {found.loss_exact:.4g} to {found.loss_exported:.4g} "
            f"on {len(inputs)} examples: {found.loss_growth_percent:.1f} %, "
            f"{loss_percent:g} % is allowed",
            remedy="Use an exact format, more calibration data, or --loss-percent.",
        )
    return found


def check_outputs(
    outputs: Array,
    exact: Array,
    inputs: Inputs,
    sizes: Sequence[int] = (),
    *,
    limit: float = ANSWERS_ERROR,
) -> OutputDrift:
    """Error of the outputs within its limit.

    Raises:
        ExportError: If it is above; the message has the numbers.
    """
    error = output_error(outputs, exact, sizes)
    if not error <= limit:  # also where it is no number
        raise ExportError(
            f"outputs on {len(inputs)} {inputs.origin} differ by "
            f"{error:.3f} of what they vary by, {limit} is allowed",
            remedy="Use an exact format, or more calibration data.",
        )
    return OutputDrift(len(inputs), error, limit, None, None, LOSS_PERCENT)


def check_metric(
    source: Source,
    metric: Metric,
    outputs: Array,
    exact: Array,
    inputs: Inputs,
    found: OutputDrift,
    tolerance: Tolerance,
) -> OutputDrift:
    """The drift with the task's own metric before and after, within its limit.

    A share may lose `Tolerance.accuracy_points`, another metric `loss_percent` of its
    size.

    Raises:
        ExportError: If it gets worse by more, or the metric has no value.
    """
    before, after = (
        _value(metric, arrays_of(source.apart(a, inputs.batch)), inputs.targets)
        for a in (exact, outputs)
    )
    lost = before - after if metric.higher_is_better else after - before
    percent = tolerance.loss_percent
    may = tolerance.accuracy_points if metric.is_share else percent * abs(before)
    if 100 * lost > may + 1e-9:
        allowed = f"{may:g} points" if metric.is_share else f"{percent:g} %"
        raise ExportError(
            f"{metric.name} goes from {before:.4g} to {after:.4g} on {len(inputs)} "
            f"examples; {allowed} may be lost",
            remedy="Use an exact format, more calibration data, "
            f"or --{'accuracy-points' if metric.is_share else 'loss-percent'}.",
        )
    return replace(found, metric=metric.name, metric_exact=before, metric_made=after)


def _losses(
    source: Source, both: tuple[Array, Array], inputs: Inputs
) -> tuple[float | None, float | None]:
    if source.contract is None or inputs.targets is None:
        return None, None
    targets = torch.from_numpy(np.asarray(inputs.targets))
    found = []
    for outputs in both:
        with torch.no_grad():
            form = source.apart(outputs, inputs.batch)
            found.append(float(source.contract.loss(form, targets)))
    return found[0], found[1]
