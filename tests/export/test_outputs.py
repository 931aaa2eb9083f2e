"""Exports of models that are no classifiers of floats, and how they are judged."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.errors import ExportError
from edge_sdk.infer.answers import Meaning, answer
from edge_sdk.sparse import Mask
from edge_sdk.tasks import Examples, Task
from export.api import build_source
from export.checks.drift import CLASSES, check_accuracy, check_drift, output_error
from export.modules.exporter_errors import reason_of
from export.rebuild import Inputs, Source
from export.snippets import readme

RNG = np.random.default_rng(3)
BCE = F.binary_cross_entropy_with_logits


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.words(ids).mean(1))
        return found


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.what, self.where = nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"what": self.what(x), "where": self.where(x)}


def a_source(model: nn.Module, loss: Any, examples: Examples, folder: Path) -> Source:
    """A module with a task whose evaluation set lies in the folder."""
    save_partition(folder, examples, part="eval")
    fresh = copy.deepcopy(model)
    task = Task(
        name="own",
        model=lambda: copy.deepcopy(fresh),
        loss=loss,
        train_data=load_partition,
        eval_data=lambda place: load_partition(place, part="eval"),
        input_shape=examples.inputs.shape[1:],
    )
    masked = {
        f"{name}.weight".lstrip("."): np.ones(tuple(layer.weight.shape), np.bool_)
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    shape = tuple(examples.inputs.shape[1:])
    still = model.eval().requires_grad_(requires_grad=False)
    return Source(still, Mask(masked), shape, "own", contract=task)


def test_token_ids_are_the_input_of_an_export_with_and_without_data(
    tmp_path: Path,
) -> None:
    ids = RNG.integers(0, 50, (80, 12)).astype(np.int32)
    torch.manual_seed(0)
    source = a_source(
        Words(), F.cross_entropy, Examples(ids, RNG.integers(0, 3, 80)), tmp_path
    )
    kinds = []
    for data in (None, tmp_path):
        out = tmp_path / "m.onnx"
        report = build_source(source, format="onnx", out=out, data=data)
        assert report.findings.parity is not None
        assert report.findings.parity.max_relative < 1e-5
        given = onnx.load(out).graph.input[0].type.tensor_type
        kinds.append(given.elem_type)
    assert kinds == [onnx.TensorProto.INT64] * 2
    assert source.inputs(None, 8).batch.max() < 50


def test_several_outputs_are_exported_and_compared_together(tmp_path: Path) -> None:
    def loss(out: dict[str, torch.Tensor], aim: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out["what"], aim) + out["where"].square().mean()

    inputs = RNG.normal(size=(80, 6)).astype(np.float32)
    source = a_source(Two(), loss, Examples(inputs, RNG.integers(0, 3, 80)), tmp_path)
    out = tmp_path / "m.onnx"
    report = build_source(source, format="onnx-fp16", out=out, data=tmp_path)
    assert [o.name for o in onnx.load(out).graph.output] == ["what", "where"]
    assert report.findings.accuracy is None
    assert report.findings.drift is not None
    assert report.findings.drift.loss_exact == pytest.approx(
        report.findings.drift.loss_exported, rel=1e-2
    )
    report = build_source(source, format="native", data=tmp_path)
    assert report.findings.parity.max_relative <= report.findings.parity.limit


def _pixels(x: NDArray[np.float32]) -> NDArray[np.generic]:
    return (x[:, 0, 1:-1, 1:-1] > 0).astype(np.uint8)


MANY = {
    "segmentation": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        *(F.cross_entropy, (1, 8, 8), _pixels),
    ),
    "labels": (
        lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)),
        *(BCE, (6,), lambda x: x[:, :4] > 0),
    ),
    "autoencoder": (
        lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 6)),
        *(F.mse_loss, (6,), lambda x: x),
    ),
    "regression": (
        lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)),
        *(F.mse_loss, (6,), lambda x: x[:, :1] * 2 + 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_int8_of_a_model_without_classes_is_judged_by_what_it_puts_out(
    case: str, tmp_path: Path
) -> None:
    make, loss, shape, aim = MANY[case]
    own = np.random.default_rng(11)  # whatever tests ran before in this process
    inputs = own.normal(size=(300, *shape)).astype(np.float32)
    torch.manual_seed(1)
    source = a_source(make(), loss, Examples(inputs, aim(inputs)), tmp_path)
    found = build_source(source, format="onnx-int8", data=tmp_path).findings
    if case == "segmentation":
        assert found.accuracy is not None
        assert 0 <= found.accuracy.exact <= 1
        assert found.drift is not None  # a wider limit; no loss
        assert found.drift.loss_exact is None
    else:
        assert found.accuracy is None
        assert found.drift is not None
        assert 0 < found.drift.output_error <= found.drift.limit
        assert found.drift.loss_exported is not None
    assert source.meaning(tmp_path)["kind"] in {"classes", "labels", "values"}


def _regression(tmp_path: Path) -> tuple[Source, Inputs, NDArray[np.float32]]:
    """Exact outputs that are 0.1 off their targets, which vary by 1."""
    inputs = RNG.normal(size=(200, 1)).astype(np.float32)
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    noise = 0.02 * np.sign(RNG.normal(size=(200, 1))).astype(np.float32)
    source = a_source(model, F.mse_loss, Examples(inputs, inputs + noise), tmp_path)
    given = source.inputs(tmp_path, 1000)
    return source, given, source.predict(given.batch)


def test_a_regression_whose_squared_error_grows_fourfold_is_refused(
    tmp_path: Path,
) -> None:
    """Though its outputs are near; a limit that one states lets it through."""
    source, given, exact = _regression(tmp_path)
    assert given.targets is not None
    worse = given.targets + 2 * (exact - given.targets)
    assert output_error(worse, exact) < 0.1
    with pytest.raises(ExportError, match=r"loss grows from .* 300.* 10 % is allowed"):
        check_drift(source, worse, exact, given)
    assert check_drift(source, worse, exact, given, loss_percent=400).loss_exact


def test_outputs_far_from_the_exact_ones_are_refused_without_examples_too(
    tmp_path: Path,
) -> None:
    source, given, exact = _regression(tmp_path)
    bare = dataclasses.replace(given, targets=None)
    with pytest.raises(ExportError, match="of what they vary by"):
        check_drift(source, exact * 1.2, exact, bare)
    with pytest.raises(ExportError, match="differ by nan"):
        check_drift(source, exact * np.float32(np.nan), exact, bare)
    assert check_drift(source, exact * 1.001, exact, bare).loss_exact is None
    assert output_error(exact, exact) == 0.0


def test_a_model_that_guesses_cannot_hide_what_its_export_answers() -> None:
    """Its accuracy is the same with answers that are all others."""
    from edge_sdk.tasks.metrics import Measure

    targets = np.arange(40) % 4
    exact = np.eye(4, dtype=np.float32)[np.zeros(40, int)]
    other = np.eye(4, dtype=np.float32)[np.ones(40, int)]
    given = Inputs(np.zeros((40, 1), np.float32), targets, "examples")
    with pytest.raises(ExportError, match=r"100\.0 % of the answers"):
        check_accuracy(Measure("classes"), other, exact, given, 0.5)
    assert check_accuracy(Measure("classes"), exact, exact, given, 0.5).exact == 0.25


def test_why_an_export_failed_is_told_whole() -> None:
    cause = RuntimeError("Expected tensor for argument #1 'indices'\nto be Long\n\nand")
    try:
        try:
            raise cause
        except RuntimeError as error:
            raise ValueError("step 1/3 failed\nlong story") from error
    except ValueError as error:
        said = reason_of(error)
    assert said.startswith("RuntimeError: Expected tensor for argument #1 'indices' to")
    assert "test_outputs.py, line" in said


@pytest.mark.parametrize(
    ("outputs", "kind", "labels", "line"),
    [
        ([0.5, 2.5], "classes", ("cat", "dog"), "dog\t2.5"),
        ([0.5, 2.5], "classes", (), "1\t2.5"),
        ([23.14021], "values", (), "23.1402"),
        ([1.5, -2.25, 3.0], "values", ("x", "y", "z"), "1.5 -2.25 3"),
        ([-1.0], "binary", ("no", "yes"), "no\t-1"),
        ([2.0, -1.0, 0.5], "labels", ("a", "b", "c"), "a, c\t2 -1 0.5"),
        ([-2.0, -1.0], "labels", ("a", "b"), "none\t-2 -1"),
        ([[[1, 0], [0, 0]], [[0, 2], [2, 2]]], "classes", ("sky",),
         "2 x 2 places\t1 75.0 %, sky 25.0 %"),
    ],
)  # fmt: skip
def test_an_answer_reads_as_what_it_is(
    outputs: Any, kind: str, labels: tuple[str, ...], line: str
) -> None:
    assert answer(np.array(outputs, np.float32), Meaning(kind), labels) == line


def test_a_bundles_code_feeds_the_dtype_that_its_model_takes() -> None:
    models = {"onnx": {"file": "m.onnx", "exact": True, "bytes": 9, "size_ratio": 2.0}}
    ids = readme("words", models, (12,), labels=0, outputs=3, dtype="int64")
    assert "`1, 12` int64" in ids
    assert "LongBuffer" in ids
    assert "loat" not in ids.split("## C++")[1].split("Array<FloatArray>")[0]
    assert "FloatBuffer" in readme("net", models, (12,), labels=0, outputs=3)


def test_a_bundle_of_before_has_classes_if_it_has_labels() -> None:
    assert Meaning.of({}, ["a"]).kind == "classes"
    assert Meaning.of({}, []).kind == "values"
    assert Meaning.of({"outputs": {"kind": "labels"}}, ["a"]).kind == "labels"
    assert Meaning.of({"outputs": "of old"}, []).kind == "values"


@pytest.mark.parametrize(
    ("examples", "lost", "points", "passes"),
    [
        *((182, 1, 0.5, True), (182, 2, 0.5, False)),
        *((182, 1, 0.0, False), (1000, 5, 0.5, True), (1000, 6, 0.5, False)),
    ],
)
def test_one_answer_of_few_examples_may_always_be_lost(
    examples: int, lost: int, points: float, *, passes: bool
) -> None:
    exact = np.zeros((examples, 2), np.float32)
    exact[:, 1] = 1.0
    made = exact.copy()
    made[:lost] = made[:lost, ::-1]
    given = Inputs(exact, np.ones(examples, np.int64), "as given")
    if passes:
        found = check_accuracy(CLASSES, made, exact, given, points)
        assert found.lost_points == pytest.approx(100 * lost / examples)
    else:
        with pytest.raises(ExportError, match="accuracy falls"):
            check_accuracy(CLASSES, made, exact, given, points)
