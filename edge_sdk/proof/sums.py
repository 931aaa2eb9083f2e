"""Sums of masked updates in a log: a model of secure aggregation is made of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_sdk.proof.records import number, text

__all__ = ["wrong_sums"]

Record = Mapping[str, Any]


def wrong_sums(
    settings: Record, record: Record, counted: Sequence[Record] | None
) -> Iterator[str]:
    """Check what a model's record says of the sum that the model is made of.

    Args:
        settings: Of the round.
        record: Of its model.
        counted: Leaves of the updates in it; None where not all are there.

    Yields:
        What is wrong.
    """
    given = settings.get("privacy")
    privacy = given if isinstance(given, Mapping) else {}
    masked, told = privacy.get("secure_aggregation") is True, record.get("sum")
    if not masked:
        if told is not None:
            yield "it names a sum of masked updates; its settings mask none"
        return
    weight = _weight_of(told) if isinstance(told, Mapping) else None
    if weight is None:
        yield "it names no sum of masked updates, and its settings mask them"
    elif counted is not None:
        least = number(privacy, "min_devices")
        if len(counted) < least:
            yield (
                f"its sum is of {len(counted)} updates; its settings ask for "
                f"{least:g} at least"
            )
        most = sum(number(one, "examples") for one in counted)
        if not 0 < weight <= most * (1 + 1e-9):
            yield f"its sum weighs {weight:g}; its updates have {most:g} examples"


def _weight_of(told: Record) -> float | None:
    """The weight of a sum; None if it cannot be read."""
    means, total = told.get("means"), 0.0
    for one in means if isinstance(means, list) else ():
        match one:
            case [int() | float(), str(), int() | float() as weight]:
                total += weight
            case _:
                return None
    return total if means and text(told, "unmasking") else None
