"""What can be said of a model beside its loss: the table, loss by loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn, zeros
from torch.nn import functional as F  # noqa: N812 - its usual name

from edge_sdk.evaluation.tally import total, values_of
from edge_sdk.tasks import Examples, Task
from edge_sdk.tasks.metrics import Measure, guess, measured_by
from edge_sdk.training.scoring import measure_of, metrics_for, score, tally

BCE = F.binary_cross_entropy_with_logits


def whole(*shape: int) -> Tensor:
    return zeros(*shape, dtype=torch.int64)


def clamped(out: Tensor, aim: Tensor) -> Tensor:
    return F.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), aim)


def by_hand(out: Tensor, aim: Tensor) -> Tensor:
    return -(aim * out.log() + (1 - aim) * (1 - out).log()).mean()


def quantiles(out: Tensor, aim: Tensor) -> Tensor:
    off = aim.float()[:, None] - out
    return torch.maximum(0.1 * off, -0.9 * off).mean()


LOSSES = {
    "cross entropy": (F.cross_entropy, zeros(2, 4), whole(2), "classes"),
    "with smoothing": (
        *(nn.CrossEntropyLoss(label_smoothing=0.1), zeros(2, 4), whole(2)),
        "classes",
    ),
    "of log-softmax": (
        lambda o, t: F.nll_loss(F.log_softmax(o, 1), t),
        *(zeros(2, 4), whole(2), "classes"),
    ),
    "of probabilities": (
        lambda o, t: F.nll_loss(o.log(), t),
        *(zeros(2, 4), whole(2), "classes"),
    ),
    "margin": (F.multi_margin_loss, zeros(2, 4), whole(2), "classes"),
    "segmentation": (F.cross_entropy, zeros(2, 3, 5, 5), whole(2, 5, 5), "classes"),
    "steps": (F.cross_entropy, zeros(2, 3, 7), whole(2, 7), "classes"),
    "one-hot": (F.cross_entropy, zeros(2, 4), torch.eye(4)[:2], "one-hot"),
    "soft targets": (F.cross_entropy, zeros(2, 4), zeros(2, 4) + 0.25, "values"),
    "one logit": (BCE, zeros(2), zeros(2), "binary"),
    "one logit of a column": (BCE, zeros(2, 1), zeros(2, 1), "binary"),
    "one logit squeezed": (
        lambda o, t: BCE(o.squeeze(1), t),
        *(zeros(2, 1), zeros(2), "binary"),
    ),
    "one logit, integers": (
        lambda o, t: BCE(o.squeeze(1), t.float()),
        *(zeros(2, 1), whole(2), "binary"),
    ),
    "weighted": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        *(zeros(2, 1), zeros(2, 1), "binary"),
    ),
    "one probability": (F.binary_cross_entropy, zeros(2, 1), zeros(2, 1), "binary"),
    "one probability clamped": (clamped, zeros(2, 1), zeros(2, 1), "binary"),
    "one probability by hand": (by_hand, zeros(2, 1), zeros(2, 1), "binary"),
    "two-class segmentation": (BCE, zeros(2, 1, 8, 8), zeros(2, 1, 8, 8), "binary"),
    "labels": (BCE, zeros(2, 5), zeros(2, 5), "labels"),
    "labels, soft margin": (
        *(F.multilabel_soft_margin_loss, zeros(2, 5), zeros(2, 5)),
        "labels",
    ),
    "squares": (F.mse_loss, zeros(2, 1), zeros(2, 1) + 0.3, "values"),
    "squares onto 0 and 1": (F.mse_loss, zeros(2, 1), zeros(2, 1), "values"),
    "absolute onto 0 and 1": (F.l1_loss, zeros(2), zeros(2), "values"),
    "huber onto 0 and 1": (F.huber_loss, zeros(2), zeros(2), "values"),
    "squares onto one-hot": (F.mse_loss, zeros(2, 4), torch.eye(4)[:2], "values"),
    "counts": (F.poisson_nll_loss, zeros(2, 1), zeros(2, 1), "values"),
    "quantiles of integers": (quantiles, zeros(2, 3), whole(2), "values"),
    "grey images": (BCE, zeros(2, 1, 8, 8), zeros(2, 1, 8, 8) + 0.4, "values"),
    "two outputs": (
        lambda o, t: F.cross_entropy(o["a"], t),
        *({"a": zeros(2, 4)}, whole(2), "values"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_what_a_loss_does_says_what_its_outputs_mean(case: str) -> None:
    loss, outputs, targets, kind = LOSSES[case]
    assert measured_by(loss, outputs, targets).kind == kind


@pytest.mark.parametrize("case", LOSSES)
def test_without_targets_outputs_of_values_are_not_taken_for_answers(case: str) -> None:
    """The other way round it may be: soft targets are known by the targets alone."""
    loss, outputs, _, kind = LOSSES[case]
    found = guess(loss, outputs).kind
    allowed = {"one-hot": {"classes"}, "values": {"values"}}.get(kind, {kind})
    if case in {"soft targets", "grey images"}:
        allowed = {"classes", "binary"}
    assert found in allowed


def test_classes_that_the_loss_ignores_do_not_count() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=0)
    measure = measured_by(loss, zeros(2, 3), whole(2))
    outputs = torch.eye(3)
    assert measure.ignored == {0}
    assert measure.right(outputs, torch.tensor([0, 1, 1])) == (1, 2)
    plain = measured_by(F.cross_entropy, zeros(2, 3), whole(2))
    assert plain.right(outputs, torch.tensor([-100, 1, 2])) == (2, 2)


@given(st.integers(1, 6), st.integers(2, 5), st.lists(st.integers(1, 3), max_size=2))
def test_no_more_answers_are_right_than_there_are(
    count: int, classes: int, places: list[int]
) -> None:
    outputs = torch.randn(count, classes, *places)
    targets = torch.randint(-1, classes + 1, (count, *places))
    right, counted = Measure("classes").right(outputs, targets)
    assert 0 <= right <= counted <= targets.numel()


CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any, str]] = {
    "logit (n,)": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
        *(BCE, (4,), lambda x: (x[:, 0] > 0).astype(np.float32), "accuracy"),
    ),
    "logit (n, 1)": (
        lambda: nn.Linear(4, 1),
        *(BCE, (4,), lambda x: (x[:, :1] > 0).astype(np.int64), "accuracy"),
    ),
    "labels": (
        lambda: nn.Linear(4, 4),
        *(BCE, (4,), lambda x: x > 0, "label_accuracy"),
    ),
    "autoencoder": (lambda: nn.Linear(4, 4), F.mse_loss, (4,), lambda x: x, ""),
    "binary autoencoder": (lambda: nn.Linear(4, 4), BCE, (4,), None, ""),
    "regression": (
        lambda: nn.Linear(4, 1),
        *(F.mse_loss, (4,), lambda x: x[:, :1] * 3, ""),
    ),
    "pixels": (
        lambda: nn.Conv2d(1, 3, 1),
        *(F.cross_entropy, (1, 4, 4)),
        *(lambda x: (x[:, 0] > 0).astype(np.uint8) * 2, "accuracy"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_share_of_right_answers_is_one(case: str, tmp_path: Path) -> None:
    """It lies in [0, 1], and is what a loop over all answers counts."""
    model, loss, shape, aim, name = CASES[case]
    inputs = np.random.default_rng(0).normal(size=(700, *shape)).astype(np.float32)
    if aim is None:
        inputs = (inputs > 0).astype(np.float32)
    found = Examples(inputs, inputs if aim is None else aim(inputs))
    task = Task(
        name="own",
        model=model,
        loss=loss,
        train_data=lambda _: found,
        eval_data=lambda _: found,
        input_shape=shape,
    )
    examples = task.read_eval(tmp_path)
    metrics = metrics_for(task, examples)
    net = model().eval()
    got = score(net, task, examples, metrics)
    assert set(got) == {"loss", name} - {""}
    if not name:
        return
    with torch.no_grad():
        out = net(torch.from_numpy(inputs)).numpy()
    said = out.argmax(1) if case == "pixels" else out > 0
    right = np.mean(said.reshape(-1) == np.asarray(found.targets).reshape(-1))
    assert got[name] == pytest.approx(float(right))
    parts = [
        tally(net, task, examples.take(slice(i, i + 300)), metrics)
        for i in range(0, 700, 300)
    ]
    assert values_of(metrics, total(parts), "own") == pytest.approx(got)


def test_one_target_that_is_neither_0_nor_1_is_enough_for_no_share(
    tmp_path: Path,
) -> None:
    targets = np.zeros((700, 4), np.float32)
    targets[699, 3] = 0.5
    found = Examples(np.zeros((700, 4), np.float32) + np.arange(4), targets)
    task = Task(
        name="own",
        model=lambda: nn.Linear(4, 4),
        loss=BCE,
        train_data=lambda _: found,
        eval_data=lambda _: found,
        input_shape=(4,),
    )
    assert measure_of(task, task.read_eval(tmp_path)).name == ""
