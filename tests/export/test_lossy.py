"""Formats that round values: small, gated by accuracy; and onnxruntime's own format."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import prune

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import DataError, ExportError
from export.passes.half_values import HalfValues
from export.rebuild import from_checkpoint
from export.runtime import open_session, predict

Digits = tuple[Checkpoint, Path]


@pytest.mark.parametrize("name", ["onnx-fp16", "onnx-int8"])
def test_a_rounded_model_keeps_its_accuracy_and_zeros(
    digits: Digits, tmp_path: Path, name: str
) -> None:
    checkpoint, data = digits
    out = tmp_path / "m.onnx"
    report = export.build(checkpoint, format=name, out=out, data=data)
    found = report.findings
    assert found.accuracy is not None
    assert found.accuracy.exact > 0.8
    assert found.accuracy.lost_points <= 0.5
    assert found.bitwise  # equal to the same values unpacked
    assert found.folded
    assert found.weights_checked == len(checkpoint.layers)
    again = export.verify(out, checkpoint, data=data)
    assert again.findings == found


def test_every_rounding_makes_the_file_smaller(digits: Digits) -> None:
    checkpoint, data = digits
    sizes = [
        export.build(checkpoint, format=name, data=data).file_bytes
        for name in ("onnx", "onnx-sparse", "onnx-fp16")
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_too_much_lost_accuracy_closes_the_gate(digits: Digits, tmp_path: Path) -> None:
    checkpoint, data = digits
    out = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match=r"accuracy falls from .* points"):
        export.build(
            checkpoint, format="onnx-int8", out=out, data=data, accuracy_points=-100.0
        )
    assert not out.exists()


@pytest.mark.parametrize(
    "limit", [{"accuracy_points": float("nan")}, {"loss_percent": -1.0}]
)
def test_a_limit_that_nothing_could_pass_or_fail_is_refused_by_each_command(
    digits: Digits, tmp_path: Path, limit: dict[str, float]
) -> None:
    checkpoint, data = digits
    out = tmp_path / "m.onnx"
    export.build(checkpoint, format="onnx", out=out)
    refused = pytest.raises(ExportError, match=f"{next(iter(limit))} is ")
    with refused:
        export.verify(out, checkpoint, data=data, **limit)
    with refused:
        export.make_bundle(checkpoint, tmp_path / "bundle", data=data, **limit)
    with refused:
        export.build_source(from_checkpoint(checkpoint), format="onnx", **limit)
    assert not (tmp_path / "bundle").exists()


def test_int8_without_examples_is_refused(digits: Digits) -> None:
    with pytest.raises(DataError, match="needs examples to calibrate on"):
        export.build(digits[0], format="onnx-int8")


def test_calibration_and_accuracy_use_different_examples(digits: Digits) -> None:
    from export.rebuild import from_checkpoint

    source = from_checkpoint(digits[0])
    first, second = (source.inputs(digits[1], 10_000, half=h) for h in (0, 1))
    rows = {row.tobytes() for row in first.batch}
    shared = sum(row.tobytes() in rows for row in second.batch)
    assert shared == 0


def test_weights_beyond_half_precision_are_refused() -> None:
    weight = np.full((2, 2), 7e4, np.float32)
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [], [], [numpy_helper.from_array(weight, "w")]
    )
    with pytest.raises(ExportError, match="float16's"):
        HalfValues()(onnx.helper.make_model(graph))


def test_the_ort_file_is_sparse_and_bitwise_equal(
    digits: Digits, tmp_path: Path
) -> None:
    checkpoint, data = digits
    out = tmp_path / "m.ort"
    report = export.build(checkpoint, format="ort", out=out, data=data)
    assert report.findings.bitwise
    assert report.findings.parity.max_relative <= 1e-5
    assert report.size_ratio > 1.2
    session = open_session(str(out))
    assert predict(session, np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 10)
    assert session.get_modelmeta().custom_metadata_map["flash_edge.format"] == "ort"


class Hears(nn.Module):
    """Two layers of an LSTM that runs both ways, behind a table of rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Linear(12, 32)
        self.lstm = nn.LSTM(32, 48, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(96, 5)
        for name, _ in list(self.lstm.named_parameters()):
            if name.startswith("weight"):
                prune.l1_unstructured(self.lstm, name, amount=0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.rows(x))[0][:, -1])


def test_recurrent_weights_are_rounded_with_the_others() -> None:
    """Every gate holds: native computes what onnxruntime does with those values."""
    given = np.random.default_rng(0).normal(size=(16, 6, 12)).astype(np.float32)
    formats = ("onnx-sparse", "onnx-fp16", "onnx-int8", "native", "native-int8")
    made = export.build(Hears(), formats=formats, calibration=given)
    size = {name: made[name].file_bytes for name in formats}
    assert size["onnx-fp16"] < 0.75 * size["onnx-sparse"]
    assert size["onnx-int8"] < 0.75 * size["onnx-sparse"]
    assert size["native-int8"] < 0.75 * size["native"]
    assert any("4 recurrent weights" in note for note in made["onnx-int8"].notes)


def test_the_table_of_an_embedding_is_stored_in_half() -> None:
    table = nn.Sequential(nn.Embedding(300, 16), nn.Flatten(), nn.Linear(64, 3))
    ids = np.random.default_rng(0).integers(0, 300, (8, 4))
    made = export.build(table, formats=("onnx", "onnx-fp16"), calibration=ids)
    assert made["onnx-fp16"].file_bytes < 0.6 * made["onnx"].file_bytes


def test_tables_are_rounded_row_by_row(tmp_path: Path) -> None:
    """Rows of many sizes; a table that two lookups share is rounded for both."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(200, 16)
            with torch.no_grad():
                self.table.weight *= torch.logspace(-3, 1, 200)[:, None]

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            first, rest = self.table(ids), self.table((ids + 7) % 200)
            return torch.cat([first, rest], -1)

    torch.manual_seed(0)
    model = Words()
    ids = np.arange(200).reshape(-1, 1)
    made = export.build(
        model, tmp_path, formats=("native", "native-int8"), calibration=ids
    )
    exact, rounded = (export.load(path)(ids) for path in made.files.values())
    off = np.abs(exact - rounded).max(-1) / np.abs(exact).max(-1)
    assert 1e-4 < off.max() <= 1 / 127  # half a step of each row's own scale
    assert made.sizes["native"] - made.sizes["native-int8"] > 200 * 16 * 2
    export.verify(made.files["native-int8"], model, calibration=ids)
