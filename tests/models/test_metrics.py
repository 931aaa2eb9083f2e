"""Metrics as sums: they add up over parts, and are what their formulas say."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edge_sdk.errors import TaskError
from edge_sdk.evaluation.classification import (
    accuracy,
    confusion_matrix,
    macro_f1,
    top_k,
)
from edge_sdk.evaluation.measure import Measure, measure_from
from edge_sdk.evaluation.metric import Metric, loss
from edge_sdk.evaluation.overlap import dice, iou
from edge_sdk.evaluation.ranking import auroc, average_precision
from edge_sdk.evaluation.regression import mae, r2, rmse
from edge_sdk.evaluation.tally import Tally, total, values_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.scoring import metrics_for, score

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
CLASSES = RNG.normal(size=(90, 4)), RNG.integers(0, 4, 90)
YES = RNG.normal(size=90), RNG.integers(0, 2, 90)
VALUES = RNG.normal(size=(90, 2)), RNG.normal(size=(90, 2))
PIXELS = RNG.normal(size=(90, 3, 2, 2)), RNG.integers(0, 3, (90, 2, 2))


def f1s(outputs: Any, targets: Any) -> float:
    said = outputs.argmax(1)
    found = []
    for one in range(outputs.shape[1]):
        hits = ((said == one) & (targets == one)).sum()
        found.append(2 * hits / ((said == one).sum() + (targets == one).sum()))
    return float(np.mean(found))


def area(outputs: Any, targets: Any) -> float:
    pairs = outputs[targets == 1][:, None] - outputs[targets == 0][None]
    return float(((pairs > 0) + (pairs == 0) / 2).mean())


def precision(outputs: Any, targets: Any) -> float:
    order = np.argsort(-outputs)
    hits = targets[order] == 1
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def overlap(outputs: Any, targets: Any, *, twice: bool) -> float:
    said, found = outputs.argmax(1), []
    for one in range(outputs.shape[1]):
        a, b = said == one, targets == one
        both = (a & b).sum()
        found.append(2 * both / (a.sum() + b.sum()) if twice else both / (a | b).sum())
    return float(np.mean(found))


FORMULAS: dict[str, tuple[Metric, Any, Callable[[Any, Any], float], float]] = {
    "accuracy": (accuracy(), CLASSES, lambda o, t: (o.argmax(1) == t).mean(), 1e-12),
    "binary": (accuracy(), YES, lambda o, t: ((o > 0) == t).mean(), 1e-12),
    "top2": (
        *(top_k(2), CLASSES),
        lambda o, t: np.mean([t[i] in np.argsort(-o[i])[:2] for i in range(len(t))]),
        1e-12,
    ),
    "macro_f1": (macro_f1(), CLASSES, f1s, 1e-12),
    # Some pairs fall into one of 512 bins, and count as ties.
    "auroc": (auroc(), YES, area, 0.01),
    "average_precision": (average_precision(bins=1 << 11), YES, precision, 0.02),
    "mae": (mae(), VALUES, lambda o, t: np.abs(o - t).mean(), 1e-12),
    "rmse": (rmse(), VALUES, lambda o, t: np.sqrt(((o - t) ** 2).mean()), 1e-12),
    "r2": (r2(), VALUES, lambda o, t: 1 - ((o - t) ** 2).mean() / t.var(), 1e-9),
    "iou": (iou(), PIXELS, lambda o, t: overlap(o, t, twice=False), 1e-12),
    "dice": (dice(), PIXELS, lambda o, t: overlap(o, t, twice=True), 1e-12),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_shipped_metric_is_its_formula_and_adds_up_over_parts(name: str) -> None:
    metric, (outputs, targets), formula, near = FORMULAS[name]
    wanted = pytest.approx(float(formula(outputs, targets)), abs=near)
    parts = [metric.of(outputs[s], targets[s]) for s in map(slice, (0, 7), (7, 90))]
    assert metric.value(metric.of(outputs, targets)) == wanted
    assert metric.value(parts[0] + parts[1]) == wanted


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_shares_stay_in_their_range_on_any_examples(
    count: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    outputs, targets = rng.normal(size=(count, classes)), rng.integers(-1, 7, count)
    for metric in (accuracy(), macro_f1(), top_k(2), iou(), dice()):
        value = metric.value(metric.of(outputs, targets))
        assert math.isnan(value) or 0 <= value <= 1
    table = confusion_matrix(macro_f1().of(outputs, targets))
    assert table.sum() == ((targets >= 0) & (targets < classes)).sum()


def test_sums_that_say_nothing_have_no_value() -> None:
    one_class = np.array([0.5, -1.0]), np.array([1, 1])
    assert math.isnan(auroc().value(auroc().of(*one_class)))
    flat = np.zeros(3), np.ones(3)
    assert math.isnan(r2().value(r2().of(*flat)))
    nobody = accuracy().of(np.eye(2), np.array([-1, -1]))
    found = Tally({"accuracy": nobody})
    assert values_of([accuracy()], found, "own") == {}


BAD: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any], str]] = {
    "NaN": (lambda *_: [np.nan], lambda s: s[0], "NaN or an infinity"),
    "no number": (lambda *_: ["many"], lambda s: s[0], "ValueError"),
    "nothing": (lambda *_: [], lambda s: s[0], "0 sums"),
    "too many": (lambda *_: np.zeros(9000), lambda s: s[0], "9000 sums"),
    "raises": (lambda *_: 1 / 0, lambda s: s[0], "ZeroDivisionError"),
    "exits": (lambda *_: sys.exit(1), lambda s: s[0], "SystemExit"),
    "other sizes": (lambda o, _: np.ones(len(o)), lambda s: s[0], "numbers and then"),
    "out of range": (lambda *_: [7.0], lambda s: s[0], "outside its range 0 to 1"),
    "infinite": (lambda *_: [1.0], lambda _: math.inf, "outside its range"),
    "reduce raises": (lambda *_: [1.0], lambda s: s[5], "IndexError"),
    "reduce is text": (lambda *_: [1.0], lambda _: "much", "ValueError"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_metric_that_fails_is_named_and_the_others_go_on(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    sums, reduce, said = BAD[case]
    task, examples = own(Metric("mine", sums, reduce, range=(0, 1)), accuracy())
    with caplog.at_level(logging.WARNING):
        found = score(nn.Linear(4, 3), task, examples, metrics_for(task, examples))
    assert math.isnan(found["mine"])
    assert 0 <= found["accuracy"] <= 1
    assert math.isfinite(found["loss"])
    (line,) = caplog.messages
    assert "task own: metric mine has no value" in line
    assert said in line


def own(*metrics: Metric) -> tuple[Task, Examples]:
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(310, 4)), rng.integers(0, 3, 310)
    examples = Examples(inputs.astype(np.float32), targets)
    task = Task(
        name="own",
        model=lambda: nn.Linear(4, 3),
        loss=F.cross_entropy,
        input_shape=(4,),
        metrics=metrics,
    )
    return task, examples


def test_the_first_metric_is_the_primary_one_and_the_loss_is_always_there() -> None:
    assert [m.name for m in metrics_for(*own(macro_f1(), accuracy()))] == [
        *("macro_f1", "accuracy", "loss")
    ]
    assert [m.name for m in metrics_for(*own(loss, accuracy()))] == ["loss", "accuracy"]
    assert [m.name for m in metrics_for(*own())] == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([accuracy], "call it"),
        (["accuracy"], "a str, not a metric"),
        ([accuracy(), accuracy(threshold=1)], "two metrics are named accuracy"),
    ],
)
def test_what_is_no_metric_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        own(*given)


@pytest.mark.parametrize(
    "more",
    [
        {"name": "Mean error"},
        {"name": ""},
        {"name": "m", "range": (1, 0)},
        {"name": "m", "reduce": None},
    ],
)
def test_a_metric_that_cannot_be_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        Metric(**{"sums": len, "reduce": len, **more})


@given(
    st.sampled_from(["classes", "one-hot", "binary", "labels"]),
    st.floats(-1, 1),
    st.frozensets(st.integers(-100, 300), max_size=3),
)
def test_a_measure_travels_as_a_word(kind: Any, threshold: float, ignored: Any) -> None:
    measure = Measure(kind, threshold, ignored)
    assert measure_from(measure.text()) == measure


@pytest.mark.parametrize("word", ["", "colours 1", "binary much", "classes 0 x"])
def test_a_word_of_another_version_is_no_measure(word: str) -> None:
    assert not measure_from(word).name


def test_tallies_add_up_whatever_the_parts(caplog: pytest.LogCaptureFixture) -> None:
    metric = mae()
    outputs, targets = VALUES
    parts = [
        Tally().of_batch([metric], outputs[s], targets[s], 2.0)
        for s in map(slice, (0, 30, 60), (30, 60, 90))
    ]
    found = values_of([metric, loss], total(parts), "own")
    assert found["mae"] == pytest.approx(np.abs(outputs - targets).mean())
    assert found["loss"] == pytest.approx(6 / 90)
    assert not caplog.messages


def test_metrics_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edge_sdk.evaluation import classification, ranking, regression, overlap, "
        "measure, tally\n"
        "import edge_sdk.tasks.task"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_half_precision_outputs_are_measured() -> None:
    task, examples = own(accuracy())
    net = nn.Linear(4, 3)

    def halved(inputs: torch.Tensor) -> torch.Tensor:
        return net(inputs).to(torch.bfloat16)

    assert "accuracy" in score(halved, task, examples, (accuracy(),))
