"""Messages of an evaluation on a device: which model, by what; the answer in sums."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edge_sdk.wire.named import (
    Count,
    Digest,
    Holdout,
    Manifest,
    MaskRecipe,
    TaskId,
    Why,
)

__all__ = ["MOST_METRICS", "Evaluate", "Evaluated"]

MOST_METRICS = 32
_MetricName = Annotated[str, Meta(min_length=1, max_length=40)]


class Evaluate(Struct, frozen=True, tag="evaluate", omit_defaults=True):
    """Coordinator to device: test this model on the examples that are held out.

    The model is most often the base of a task that the device has just done, so that it
    has it already. `metrics` are the task's, by name; where the task names none,
    `measure` says what share of answers is right. `round_no` is the round that gave the
    model. `parts` and `after` are those of a task whose base lacks entries. Asking is
    harmless: the answer is a function of what is asked.
    """

    id: TaskId
    round_no: Count
    model: Manifest
    mask: MaskRecipe
    metrics: Annotated[list[_MetricName], Meta(max_length=MOST_METRICS)]
    holdout: Holdout | None = None
    measure: Annotated[str, Meta(max_length=500)] = ""
    program: Manifest | None = None
    parts: Manifest | None = None
    after: Annotated[str, Meta(max_length=64)] = ""


class Evaluated(Struct, frozen=True, tag="evaluated", omit_defaults=True):
    """Device to coordinator: sums of the metrics over its test examples.

    `model` is the digest of the model that was asked for. A metric without sums is in
    `failed`, with the reason; `why` says why there are none at all.
    """

    id: TaskId
    model: Digest
    examples: Count
    sums: Annotated[
        dict[_MetricName, Annotated[list[float], Meta(max_length=8192)]],
        Meta(max_length=MOST_METRICS),
    ] = {}
    failed: Annotated[dict[_MetricName, Why], Meta(max_length=MOST_METRICS)] = {}
    why: Why = ""
