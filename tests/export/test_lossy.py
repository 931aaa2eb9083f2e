"""Formats that round values: small, gated by accuracy; and onnxruntime's own format."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

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
