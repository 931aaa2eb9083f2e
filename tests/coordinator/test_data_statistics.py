"""Statistics of all devices' examples: as of all examples together, without liars."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from coordinator.rounds.data_statistics.joined import joined
from edge_sdk.errors import TaskError
from edge_sdk.evaluation.data_sums import sums_of
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Task, load_task
from edge_sdk.training.holdout.describe import summary_of
from edge_sdk.wire.evaluation import DataQuery, DataSummary

QUERY = DataQuery(shape=[3, 1], classes=4, bins=5, low=-1.0, high=1.0)
EXAMPLE = (3, 2)


def examples(
    seed: int, count: int, mean: float = 0.0, spread: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, spread, (count, *EXAMPLE)), rng.integers(0, 4, count)


def said(inputs: NDArray[np.float64], targets: NDArray[np.int64]) -> DataSummary:
    edges = QUERY.low, QUERY.high, QUERY.bins
    found = sums_of(inputs, targets, shape=QUERY.shape, classes=4, edges=edges)
    return summary_of(found)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    mean=st.sampled_from([0.0, 3.0, 1e8]),
)
@settings(max_examples=30, deadline=None)
def test_parts_together_have_the_statistics_of_the_whole(
    counts: list[int], mean: float
) -> None:
    """Also where the mean is large: the sum of squares would have no digit left."""
    parts = [examples(seed, n, mean) for seed, n in enumerate(counts)]
    answers = {f"pi-{i}": said(*part) for i, part in enumerate(parts)}
    told = {f"pi-{i}": n for i, n in enumerate(counts)}
    found = joined(answers, QUERY, EXAMPLE, told).sums
    inputs, targets = (np.concatenate(both) for both in zip(*parts, strict=True))
    assert found is not None
    np.testing.assert_allclose(
        found.mean[:, 0], inputs.mean(axis=(0, 2)), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        found.deviation[:, 0], inputs.std(axis=(0, 2)), rtol=1e-6, atol=1e-9
    )
    assert found.classes.tolist() == np.bincount(targets).tolist()
    inside, _ = np.histogram(inputs, 5, (-1.0, 1.0))
    assert found.histogram[1:-1].tolist() == inside.tolist()
    assert found.histogram.sum() == inputs.size


LIES: dict[str, tuple[Callable[[DataSummary], DataSummary], str]] = {
    "a NaN": (
        lambda d: msgspec.structs.replace(d, mean=[math.nan, 0.0, 0.0]),
        "not finite",
    ),
    "an infinity": (
        lambda d: msgspec.structs.replace(d, squares=[1.0, math.inf, 0.0]),
        "not finite",
    ),
    "a negative square": (
        lambda d: msgspec.structs.replace(d, squares=[1.0, -1.0, 0.0]),
        "below 0",
    ),
    "more than it said": (
        lambda d: msgspec.structs.replace(d, examples=1 << 60, values=1 << 61),
        "counts 1152921504606846976 examples and said that it has 30",
    ),
    "no examples": (lambda d: msgspec.structs.replace(d, examples=0), "counts 0"),
    "other values": (lambda d: msgspec.structs.replace(d, values=7), "over 7 values"),
    "another shape": (lambda d: msgspec.structs.replace(d, mean=[0.0]), "1 numbers"),
    "labels beyond": (
        lambda d: msgspec.structs.replace(d, classes=[6, 6, 6, 6, 6]),
        "5 classes",
    ),
    "more labels": (
        lambda d: msgspec.structs.replace(d, classes=[1 << 62, 1 << 62]),
        "labels",
    ),
    "a short histogram": (
        lambda d: msgspec.structs.replace(d, histogram=[180]),
        "histogram",
    ),
    "a far mean": (
        lambda d: msgspec.structs.replace(d, mean=[0.0, 1e30, 0.0]),
        "number 1 of its mean is 1e+30",
    ),
    "a far deviation": (
        lambda d: msgspec.structs.replace(d, squares=[1e300, 1.0, 1.0]),
        "number 0 of its deviation",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_device_that_cannot_be_right_is_refused_by_name(lie: str) -> None:
    change, why = LIES[lie]
    answers = {f"pi-{i}": said(*examples(i, 30)) for i in range(4)}
    told = dict.fromkeys(answers, 30)
    honest = joined(
        {k: answers[k] for k in answers if k != "pi-2"}, QUERY, EXAMPLE, told
    )
    answers["pi-2"] = change(answers["pi-2"])
    found = joined(answers, QUERY, EXAMPLE, told)
    assert list(found.refused) == ["pi-2"]
    assert why in found.refused["pi-2"]
    assert found.sums is not None
    assert honest.sums is not None
    assert np.array_equal(found.sums.mean, honest.sums.mean)
    assert np.isfinite(found.sums.deviation).all()


@given(
    offsets=st.lists(st.floats(-8, 8), min_size=3, max_size=8),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(max_examples=30, deadline=None)
def test_devices_that_are_only_different_count(
    offsets: list[float], scale: float
) -> None:
    """Sensors are mounted differently: several deviations apart are no lie."""
    answers = {}
    for i, offset in enumerate(offsets):
        inputs, targets = examples(i, 20, offset)
        answers[f"pi-{i}"] = summary_of(
            sums_of(inputs * scale, targets, shape=[3, 1], classes=4)
        )
    query = msgspec.structs.replace(QUERY, bins=0)
    found = joined(answers, query, EXAMPLE, dict.fromkeys(answers, 20))
    assert not found.refused


def test_a_device_with_far_more_examples_counts_as_ten_times_the_median() -> None:
    answers = {f"pi-{i}": said(*examples(i, 10)) for i in range(4)}
    answers["pi-9"] = said(*examples(9, 1000, 2.0))
    told = {**dict.fromkeys(answers, 10), "pi-9": 1000}
    found = joined(answers, QUERY, EXAMPLE, told, weight=10.0)
    assert found.sums is not None
    assert found.sums.examples == pytest.approx(140)
    assert found.cut == {"pi-9": "1000 examples count as 100"}


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", nn.Parameter().new_zeros(1, 1, 1))
        self.register_buffer("prior", nn.Parameter().new_zeros(10))
        self.fc = nn.Linear(64, 10)


BAD = {
    "no such buffer": ({"men": "mean"}, "no buffer of floats"),
    "a parameter": ({"fc.weight": "mean"}, "no buffer of floats"),
    "no such statistic": ({"mean": "median"}, "median"),
    "a shape that is none": ({"prior": "mean"}, "does not broadcast"),
    "not one per class": ({"mean": "classes"}, "1 numbers for 10 classes"),
}


@pytest.mark.parametrize("case", BAD)
def test_statistics_that_fit_no_buffer_are_refused_by_name(case: str) -> None:
    digits = load_task("digits")
    given, why = BAD[case]
    task: Task = replace(digits, model=Scaled, statistics=given)
    assert task.input_shape == (1, 8, 8)
    with pytest.raises(TaskError, match=why):
        run_task(task, Parts())


class Parts:
    personal: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    start = None
    adapters = None
