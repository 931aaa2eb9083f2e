"""Statistics of all devices' examples together; who cannot be right is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.evaluation.data_sums import DataSums, summed_axes
from edge_sdk.wire.evaluation import DataQuery, DataSummary

__all__ = ["STATISTICS", "Joined", "joined", "read_summary"]

STATISTICS = "statistics"  # of the ledger: what all devices together have
BY_MEDIAN = 3  # devices; of two nobody can tell which lies
FARTHEST = 20.0  # times the devices' usual distance and deviation: feet, not noise


@dataclass(frozen=True)
class Joined:
    """Statistics of all devices together.

    Attributes:
        sums: Of those that count; None if none does.
        devices: Who counts.
        refused: Device -> why its statistics do not count.
        cut: Device -> why it counts as fewer examples than it says.
    """

    sums: DataSums | None
    devices: Sequence[str]
    refused: Mapping[str, str]
    cut: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """The same for a ledger and displays, as plain values."""
        sums = self.sums
        found: dict[str, Any] = {
            "devices": list(self.devices),
            "refused": dict(self.refused),
            "cut": dict(self.cut),
        }
        if sums is None:
            return found
        return found | {
            "examples": round(sums.examples),
            "shape": list(sums.mean.shape),
            "mean": sums.mean.reshape(-1).tolist(),
            "deviation": sums.deviation.reshape(-1).tolist(),
            "classes": [round(count) for count in sums.classes],
            "histogram": [round(count) for count in sums.histogram],
        }


def read_summary(
    given: DataSummary, query: DataQuery, example: Sequence[int], examples: int
) -> DataSums:
    """A device's statistics, if they can be.

    Args:
        given: What it says.
        query: What it was asked.
        example: Shape of a prepared example.
        examples: How many it said that it has, in its HELLO.

    Raises:
        RemoteProtocolError: Says what of them cannot be.
    """
    wrong = _impossible(given, query, example, examples)
    if wrong:
        raise RemoteProtocolError(wrong)
    shape = tuple(query.shape)
    return DataSums(
        *(given.examples, given.values),
        np.array(given.mean).reshape(shape),
        np.array(given.squares).reshape(shape),
        np.array(given.classes, np.float64),
        np.array(given.histogram, np.float64),
    )


def _impossible(
    given: DataSummary, query: DataQuery, example: Sequence[int], examples: int
) -> str:
    """The reason why a device's statistics cannot be; empty if they can."""
    size = math.prod(query.shape)
    axes = summed_axes(query.shape, example)
    values = given.examples * math.prod(example[axis - 1] for axis in axes)
    bins = query.bins + 2 if query.bins else 0
    all_values = given.examples * math.prod(example) if bins else 0
    counted = sum(given.classes)
    wrong = {
        f"it counts {given.examples} examples and said that it has {examples}": (
            not 0 < given.examples <= examples
        ),
        f"its mean is {len(given.mean)} numbers; {size} were asked for": (
            (len(given.mean), len(given.squares)) != (size, size)
        ),
        f"its mean is over {given.values} values; {values} are in its examples": (
            given.values != values
        ),
        "a number of its mean is not finite": not np.isfinite(given.mean).all(),
        "a sum of its squares is not finite, or below 0": not (
            np.isfinite(given.squares).all() and min(given.squares, default=0) >= 0
        ),
        f"it counts {counted} labels of {len(given.classes)} classes in "
        f"{given.examples} examples of {query.classes} classes": bool(given.classes)
        and (len(given.classes) > query.classes or counted != given.examples),
        f"its histogram has {sum(given.histogram)} values in {len(given.histogram)} "
        f"bins; {all_values} in {bins} were asked for": (
            len(given.histogram) != bins or sum(given.histogram) != all_values
        ),
    }
    return next((why for why, is_so in wrong.items() if is_so), "")


def joined(
    answers: Mapping[str, DataSummary],
    query: DataQuery,
    example: Sequence[int],
    told: Mapping[str, int],
    *,
    weight: float = 0.0,
) -> Joined:
    """All devices' statistics together; who cannot be right is named and left out.

    Of three or more devices none counts whose mean or deviation is far beyond what the
    others' own spread explains; of the same devices none counts as more than `weight`
    times the median one's examples.

    Args:
        answers: Device -> what it says; in any order.
        query: What was asked.
        example: Shape of a prepared example.
        told: Device -> examples that its HELLO says.
        weight: As `GateSettings.weight`; 0 for no bound.
    """
    refused: dict[str, str] = {}
    sums: dict[str, DataSums] = {}
    for device, given in sorted(answers.items()):
        examples = told.get(device, 0)
        if why := _impossible(given, query, example, examples):
            refused[device] = why
        else:
            sums[device] = read_summary(given, query, example, examples)
    for device, why in _far_off(sums).items():
        refused[device] = why
        del sums[device]
    cut: dict[str, str] = {}
    if weight and len(sums) >= BY_MEDIAN:
        most = weight * float(np.median([s.examples for s in sums.values()]))
        for device, one in sums.items():
            if one.examples > most:
                cut[device] = f"{one.examples:g} examples count as {most:g}"
                sums[device] = one.scaled(most / one.examples)
    whole: DataSums | None = None
    for one in sums.values():
        whole = one if whole is None else whole.plus(one)
    return Joined(whole, sorted(sums), refused, cut)


def _far_off(sums: Mapping[str, DataSums]) -> dict[str, str]:
    if len(sums) < BY_MEDIAN:
        return {}
    means = np.array([s.mean.reshape(-1) for s in sums.values()])
    deviations = np.array([s.deviation.reshape(-1) for s in sums.values()])
    middle = np.median(means, axis=0)
    usual = np.median(deviations, axis=0) + np.median(np.abs(means - middle), axis=0)
    usual = usual + np.abs(middle)
    usual = np.where(usual > 0, usual, usual.max(initial=0.0))
    if not usual.max(initial=0.0):
        return {}  # most devices' inputs are all 0: there is no scale to tell by
    found = {}
    for device, mean, deviation in zip(sums, means, deviations, strict=True):
        for what, number, center in (
            ("mean", mean, middle),
            ("deviation", deviation, np.zeros_like(middle)),
        ):
            away = np.abs(number - center) / usual
            if away.max(initial=0.0) > FARTHEST:
                at = int(away.argmax())
                found[device] = (
                    f"number {at} of its {what} is {number[at]:.4g}, "
                    f"{away[at]:.3g} times as far from the other devices' as usual"
                )
    return found
