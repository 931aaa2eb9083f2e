"""Messages about a device's examples: tests of a model, and statistics; all in sums."""

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

__all__ = [
    "MOST_METRICS",
    "MOST_NUMBERS",
    "BaseTest",
    "BaseTested",
    "DataDescribed",
    "DataQuery",
    "DataSummary",
    "DescribeData",
    "Evaluate",
    "Evaluated",
]

MOST_METRICS = 32
MOST_NUMBERS = 8192  # of a statistic, or of a metric's sums
_MetricName = Annotated[str, Meta(min_length=1, max_length=40)]
_Numbers = Annotated[list[float], Meta(max_length=MOST_NUMBERS)]
_Counts = Annotated[list[Count], Meta(max_length=MOST_NUMBERS)]
_Metrics = Annotated[list[_MetricName], Meta(max_length=MOST_METRICS)]
_Measure = Annotated[str, Meta(max_length=500)]
_Sums = Annotated[dict[_MetricName, _Numbers], Meta(max_length=MOST_METRICS)]
_Failed = Annotated[dict[_MetricName, Why], Meta(max_length=MOST_METRICS)]


class DataQuery(Struct, frozen=True, omit_defaults=True):
    """Statistics that a device is to make of its examples.

    `shape` is that of mean and deviation, broadcast against one prepared example; ones
    and a lack of axes are summed over. `classes` is how many are counted, 0 for none.
    `bins` equal ones from `low` to `high` count inputs; two more what is outside.
    """

    shape: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(max_length=16)] = []
    classes: Annotated[int, Meta(ge=0, le=MOST_NUMBERS)] = 0
    bins: Annotated[int, Meta(ge=0, le=1024)] = 0
    low: float = 0.0
    high: float = 1.0


class DataSummary(Struct, frozen=True, omit_defaults=True):
    """Statistics of a device's examples, in a form that adds up over devices.

    `values` is how many numbers each mean is of, `squares` the sums of their squared
    distances from it; both are flat, in C order.
    """

    examples: Count
    values: Count = 0
    mean: _Numbers = []
    squares: _Numbers = []
    classes: _Counts = []
    histogram: _Counts = []


class DescribeData(Struct, frozen=True, tag="describe", omit_defaults=True):
    """Coordinator to device: say these statistics of the examples that you train on.

    Asking is harmless: the answer is a function of query and examples.
    """

    id: TaskId
    query: DataQuery
    holdout: Holdout | None = None


class DataDescribed(Struct, frozen=True, tag="described", omit_defaults=True):
    """Device to coordinator: the statistics, or why there are none."""

    id: TaskId
    data: DataSummary | None = None
    why: Why = ""


class BaseTest(Struct, frozen=True, omit_defaults=True):
    """Test of a task's base on held-out examples, ordered with the task itself.

    Fields mean what those of EVALUATE do; model, mask, program, parts and holdout are
    the task's, so that nothing is said twice. The answer goes with the acknowledgement
    of the device's next task, or alone as EVALUATED where there is none for long.
    """

    metrics: _Metrics
    measure: _Measure = ""
    describe: DataQuery | None = None


class BaseTested(Struct, frozen=True, omit_defaults=True):
    """Answer to a test that came with a task; its fields mean what EVALUATED's do.

    `id` is the task's, which names the model.
    """

    id: TaskId
    examples: Count
    sums: _Sums = {}
    failed: _Failed = {}
    why: Why = ""
    data: DataSummary | None = None


class Evaluate(Struct, frozen=True, tag="evaluate", omit_defaults=True):
    """Coordinator to device: test this model on the examples that are held out.

    Asked where no task carries the test: about the last model of a run, and about the
    base of a task whose answer was lost. `metrics` are the task's, by name; where the
    task names none, `measure` says what share of answers is right. `round_no` is the
    round that gave the model. `parts` and `after` are those of a task whose base lacks
    entries. With `describe` the answer also tells of the examples that are trained on.
    Asking is harmless: the answer is a function of what is asked.
    """

    id: TaskId
    round_no: Count
    model: Manifest
    mask: MaskRecipe
    metrics: _Metrics
    holdout: Holdout | None = None
    measure: _Measure = ""
    program: Manifest | None = None
    parts: Manifest | None = None
    after: Annotated[str, Meta(max_length=64)] = ""
    describe: DataQuery | None = None


class Evaluated(Struct, frozen=True, tag="evaluated", omit_defaults=True):
    """Device to coordinator: sums of the metrics over its test examples.

    `model` is the digest of the model that was asked for. A metric without sums is in
    `failed`, with the reason; `why` says why there are none at all.
    """

    id: TaskId
    model: Digest
    examples: Count
    sums: _Sums = {}
    failed: _Failed = {}
    why: Why = ""
    data: DataSummary | None = None
