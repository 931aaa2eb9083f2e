"""Tests on devices as people see them: how a model does for most, and for the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from coordinator.ledger.device_rows import TOGETHER, EvaluationRow
from coordinator.views.scores import ShownMetric, percent

__all__ = ["OnDevices", "on_devices", "pooled", "tests_text"]

Rounds = Mapping[int, Mapping[str, "OnDevices"]]


@dataclass(frozen=True, slots=True)
class OnDevices:
    """One round's model at one density, tested on the devices that deploy it.

    Values are of the primary metric; None where no device has one.
    """

    devices: int  # that have a value
    examples: int  # of all of them
    together: float | None  # over all of their examples
    median: float | None  # of the devices' own values
    worst_tenth: float | None  # the mean over the worst tenth of the devices
    spread: float | None  # the standard deviation over devices
    gain: float | None  # by which a device does better than with the model before
    boards: Mapping[str, float]  # board -> the mean over its devices
    without: Mapping[str, str]  # device -> why it has no value


def on_devices(
    rows: Sequence[EvaluationRow], metric: ShownMetric, boards: Mapping[str, str]
) -> Rounds:
    """Find how each round's model does on devices, by density as text.

    Args:
        rows: Of the ledger, by round.
        metric: The primary one.
        boards: Device -> its board.
    """
    groups: dict[tuple[int, float], list[EvaluationRow]] = {}
    for row in rows:
        groups.setdefault((row.round, row.density), []).append(row)
    found: dict[int, dict[str, OnDevices]] = {}
    before: dict[float, Mapping[str, float]] = {}  # density -> device -> value
    for (no, density), group in sorted(groups.items()):
        values = {
            row.device: value
            for row in group
            if row.device != TOGETHER and (value := metric.of(row.metrics)) is not None
        }
        found.setdefault(no, {})[str(density)] = _summary(
            group, values, metric, boards, before.get(density, {})
        )
        before[density] = values
    return found


def _summary(
    group: Sequence[EvaluationRow],
    values: Mapping[str, float],
    metric: ShownMetric,
    boards: Mapping[str, str],
    before: Mapping[str, float],
) -> OnDevices:
    ranked = sorted(values.values(), reverse=not metric.higher_is_better)
    of_board: dict[str, list[float]] = {}
    for device, value in values.items():
        of_board.setdefault(boards.get(device, ""), []).append(value)
    sign = 1 if metric.higher_is_better else -1
    gains = [sign * (v - before[d]) for d, v in values.items() if d in before]
    whole = next((row for row in group if row.device == TOGETHER), None)
    return OnDevices(
        devices=len(values),
        examples=sum(row.examples for row in group if row.device in values),
        together=None if whole is None else metric.of(whole.metrics),
        median=median(ranked) if ranked else None,
        worst_tenth=fmean(ranked[: math.ceil(len(ranked) / 10)]) if ranked else None,
        spread=pstdev(ranked) if ranked else None,
        gain=fmean(gains) if gains else None,
        boards={board: fmean(own) for board, own in sorted(of_board.items())},
        without={
            row.device: row.why or "it has no value"
            for row in group
            if row.device != TOGETHER and row.device not in values
        },
    )


def pooled(rows: Sequence[EvaluationRow]) -> dict[int, dict[float, dict[str, float]]]:
    """Round, density, metric to its value over all devices' test examples."""
    found: dict[int, dict[float, dict[str, float]]] = {}
    for row in rows:
        if row.device == TOGETHER:
            found.setdefault(row.round, {})[row.density] = dict(row.metrics)
    return found


def tests_text(found: OnDevices, metric: ShownMetric) -> str:
    """One line about tests on devices.

    Example:
        >>> one = OnDevices(2, 40, 0.9, 0.9, 0.8, 0.1, 0.02, {}, {})
        >>> tests_text(one, ShownMetric("accuracy", is_share=True))
        '2 devices: median 90.00 %, worst tenth 80.00 %, spread 10.00 %'
    """

    def text(value: float | None) -> str:
        if value is None:
            return "-"
        return percent(value) if metric.is_share else f"{value:.4g}"

    words = "device" if found.devices == 1 else "devices"
    return (
        f"{found.devices} {words}: median {text(found.median)}, worst tenth "
        f"{text(found.worst_tenth)}, spread {text(found.spread)}"
    )
