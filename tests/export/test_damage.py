"""A damaged file is found, or puts out what it did: each format, any flipped bit."""

import hashlib
import json
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import prune

import export
from edge_sdk.checksums import SUMS
from edge_sdk.errors import CheckpointError, EdgeError, ExportError
from export.builder import written
from export.checks.reference import PARITY, Reference, distance, reference_of
from export.checks.stamp import BLANK, STAMP, check_stamp, stamped
from export.modules import from_module
from export.passes.describe import PREFIX
from export.places import suffix_of

FORMATS = (
    "onnx",
    "onnx-sparse",
    "onnx-fp16",
    "onnx-int8",
    "ort",
    "native",
    "native-int8",
)
HEADER = struct.Struct("<4sIQIIIIQQQQQQ")  # of a native file
RNG = np.random.default_rng(4)
INPUTS = RNG.normal(size=(64, 2, 6, 6)).astype(np.float32)
TARGETS = np.arange(64) % 4


def a_model() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 4)
    )
    for part in (model[0], model[3]):
        prune.l1_unstructured(part, "weight", amount=0.7)
    # Of a module that guesses, answers on all examples would stay whatever is damaged.
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with torch.no_grad():
        answers = a_model().eval()(torch.from_numpy(INPUTS)).argmax(1).numpy()
    made = export.build(
        a_model(),
        tmp_path_factory.mktemp("built"),
        formats=FORMATS,
        calibration=(INPUTS, answers),
    )
    return made.files


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(
    built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, name: str, data
) -> None:
    whole = built[name].read_bytes()
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at // 8] ^= 1 << at % 8
    file = tmp_path_factory.mktemp("flipped") / built[name].name
    file.write_bytes(damaged)
    try:
        model = export.load(file)
        found = model(INPUTS[:2])
    except EdgeError:
        with pytest.raises(EdgeError):
            export.verify(file, a_model(), calibration=INPUTS)
        return
    np.testing.assert_array_equal(found, export.load(built[name])(INPUTS[:2]))


def test_a_flipped_bit_of_layers_computed_in_int8_is_found(tmp_path: Path) -> None:
    """Weights, scales of weights and inputs, zero points, metadata; re-summed, too."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3))
    for part in model:
        prune.l1_unstructured(part, "weight", amount=0.7)
    given = RNG.normal(size=(40, 16, 8, 8)).astype(np.float32)
    file, bad = tmp_path / "m.flsp", tmp_path / "bad.flsp"
    report = export.build(model, format="native-int8", out=file, calibration=given)
    assert "2 layers computed in int8" in report.notes
    whole = file.read_bytes()
    wanted = export.load(file)(given[:2])
    for at in range(0, 8 * len(whole), 61):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        bad.write_bytes(damaged)
        try:
            found = export.load(bad)(given[:2])
        except EdgeError:
            continue
        np.testing.assert_array_equal(found, wanted)
    assert bad.read_bytes() != whole
    for at in RNG.integers(8 * 100, 8 * len(whole), 3):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        struct.pack_into("<I", damaged, 16, zlib.crc32(damaged[HEADER.size :]))
        bad.write_bytes(damaged)
        with pytest.raises(EdgeError):
            export.verify(bad, model, input_shape=(16, 8, 8))


@pytest.mark.parametrize("name", ["executorch", "litert", "coreml"])
def test_a_flipped_bit_of_a_format_without_a_place_for_digests_is_found(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is beside it; without its library, outputs are not compared."""
    for library in ("executorch.runtime", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, library, None)  # as where it is not installed
    content = RNG.bytes(300)
    made = export.build(a_model(), format="onnx", input_shape=(2, 6, 6))
    digest = hashlib.sha256(content).hexdigest()
    file = tmp_path / f"model{suffix_of(name)}"
    written(content, replace(made, format=name, sha256=digest), file)
    report = export.verify(file, a_model(), input_shape=(2, 6, 6))
    assert (report.format, report.findings.parity) == (name, None)
    assert (report.sha256, report.file_bytes) == (digest, 300)
    assert "outputs were not compared" in "\n".join(report.lines())
    for at in range(0, 8 * len(content), 401):
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="SHA-256"):
            export.verify(file, a_model(), input_shape=(2, 6, 6))
    (tmp_path / SUMS).unlink()
    with pytest.raises(ExportError, match=f"no digest: {SUMS} beside it"):
        export.verify(file, a_model(), input_shape=(2, 6, 6))


def test_each_place_of_a_digest_counts(tmp_path: Path) -> None:
    """The mark, the digits and all around them."""
    content = stamped(b"abc" + BLANK.encode() + b"def" * 9)
    assert content != stamped(content.replace(b"def", b"dEf", 1))
    assert check_stamp(tmp_path, content)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 4
        try:
            assert not check_stamp(tmp_path, bytes(changed))  # the mark is gone
        except ExportError:
            continue
        assert BLANK.rstrip("0").encode() not in changed
    assert stamped(b"nothing") == b"nothing"
    assert not check_stamp(tmp_path, b"nothing")


def _changed(file: Path, out: Path, change) -> Path:
    """A file changed on purpose, with a digest that fits again."""
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if change(tensor.name, array):
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for entry in model.metadata_props:
        if entry.key == PREFIX + STAMP:
            entry.value = BLANK
    out.write_bytes(stamped(model.SerializeToString(deterministic=True)))
    return out


def test_int8_scales_that_were_changed_are_found_though_answers_stay(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """Three times the outputs have the same largest one."""

    def change(name: str, array: NDArray[np.generic]) -> bool:
        if "3.weight" in name and name.endswith("_scale"):
            array *= 3
            return True
        return False

    bad = _changed(built["onnx-int8"], tmp_path / "m.onnx", change)
    assert bad.read_bytes() != built["onnx-int8"].read_bytes()
    given = (INPUTS, np.zeros(64, np.int64))
    with pytest.raises(ExportError, match="of what they vary by"):
        export.verify(bad, a_model(), calibration=given)
    with pytest.raises(ExportError, match="of what they vary by"):  # and without
        export.verify(bad, a_model(), input_shape=(2, 6, 6))


def test_fp16_values_that_were_changed_are_not_compared_with_themselves(
    built: dict[str, Path], tmp_path: Path
) -> None:
    def change(_: str, array: NDArray[np.generic]) -> bool:
        if array.dtype == np.float16 and array.size > 20:
            array[np.flatnonzero(array)[:1]] *= np.float16(1.01)
            return True
        return False

    bad = _changed(built["onnx-fp16"], tmp_path / "m.onnx", change)
    with pytest.raises(ExportError, match="not bitwise equal"):
        export.verify(bad, a_model(), input_shape=(2, 6, 6))


def test_verify_compares_rounded_files_and_says_what_it_could_not(
    built: dict[str, Path],
) -> None:
    found = export.verify(built["onnx-int8"], a_model(), input_shape=(2, 6, 6)).findings
    assert found.bitwise is None  # it was calibrated on other inputs
    assert found.drift is not None
    found = export.verify(built["onnx-fp16"], a_model(), calibration=INPUTS).findings
    assert found.bitwise
    assert found.drift is not None


# -------------------------------------------------------- files that are not ours


def _with_metadata(flsp: Path, out: Path, text: bytes) -> Path:
    """A native file with other metadata and a checksum that fits."""
    content = bytearray(flsp.read_bytes())
    fields = list(HEADER.unpack_from(content))
    at, size = fields[11], fields[12]
    content[at : at + size] = text.ljust(size)
    fields[3] = zlib.crc32(memoryview(content)[HEADER.size :])
    content[: HEADER.size] = HEADER.pack(*fields)
    out.write_bytes(content)
    return out


@pytest.mark.parametrize(
    "facts",
    [b"no JSON", b"[]", b'{"labels": 3}', b'{"labels": "ab"}', b"\xff\xfe", b"[" * 200,
     b'{"input_shape": [2.5]}', b'{"input_shape": "x"}'],
)  # fmt: skip
def test_metadata_that_nobody_wrote_is_refused(
    built: dict[str, Path], tmp_path: Path, facts: bytes
) -> None:
    file = _with_metadata(built["native"], tmp_path / "m.flsp", facts)
    with pytest.raises((CheckpointError, ExportError), match="metadata"):
        export.load(file)
    with pytest.raises((CheckpointError, ExportError), match="metadata"):
        export.verify(file, a_model(), calibration=INPUTS)


@pytest.mark.parametrize(
    "facts",
    [{"labels": "3"}, {"labels": "no JSON"}, {"input_shape": "[2.5]"},
     {"input_shape": json.dumps({"a": 1})}, {"input_shape": '["n", 3]'}],
)  # fmt: skip
def test_onnx_metadata_that_nobody_wrote_is_refused(
    built: dict[str, Path], tmp_path: Path, facts: dict[str, str]
) -> None:
    model = onnx.load(built["onnx"])
    entries = {PREFIX + key: text for key, text in facts.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, entries)
    file = tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="metadata cannot be read"):
        export.load(file)


def test_what_onnxruntime_says_of_a_run_is_one_sentence(tmp_path: Path) -> None:
    """A graph that loads, and cannot run: its gather reads beyond the table."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["index"], to=onnx.TensorProto.INT64),
         helper.make_node("Gather", ["table", "index"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "table")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    file = tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="does not run the model"):
        export.load(file)(np.full((1, 2), 9, np.float32))


# ---------------------------------------------------------------------- parity


class Cancels(nn.Module):
    """The difference of two nearly equal sums: float32 loses digits of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(512, 8), nn.Linear(512, 8)
        with torch.no_grad():
            self.b.weight.copy_(self.a.weight + 0.004 * torch.randn(8, 512) / 23)
            self.b.bias.copy_(self.a.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) - self.b(x)


def test_parity_is_measured_against_float64_and_torchs_own_error() -> None:
    wide = np.array([[1.0, 2.0]])
    near = np.float32(wide * (1 + 9e-6))
    far = np.float32(wide * (1 - 1.2e-5))
    wanted = Reference(near, wide, (2,), distance(near, wide, (2,)))
    assert distance(far, near, ()) > PARITY  # what refused ResNet50
    assert wanted.error(far) == pytest.approx(1.2e-5, rel=0.01)
    assert wanted.limit == pytest.approx(3.6e-5, rel=0.01)
    assert Reference(near, None, (2,), None).limit == PARITY

    parity = export.build(Cancels(), format="onnx", input_shape=(512,)).findings.parity
    assert parity is not None
    assert parity.torch_error is not None
    assert parity.torch_error > PARITY / 4
    assert parity.limit == pytest.approx(4 * parity.torch_error)


def test_a_module_whose_rounding_decides_is_compared_with_torch() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 3 - x - x - x > 0).float() + x.to(torch.float32)

    source = from_module(Steps(), (400,))
    found = reference_of(source, source.inputs(None, 8).batch)
    assert found.exact is None
    assert found.limit == PARITY


def test_an_output_beside_a_larger_one_is_compared_by_its_own_size() -> None:
    wanted = np.array([[640.0, 0.5], [320.0, 0.25]])
    off = wanted + np.array([0.0, 0.001])
    assert distance(off, wanted, ()) < PARITY
    assert distance(off, wanted, (1, 1)) == pytest.approx(0.002)


# ------------------------------------------------- int8 of layers at the border


class Border(nn.Module):
    """One convolution on 4x4 and on 2x2 pixels, where most weights read padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] *= 30  # left out on 2x2 pixels
        self.out = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(self.conv(x)))


def test_int8_takes_its_scales_from_the_weights_that_the_file_has() -> None:
    given = RNG.normal(size=(40, 16, 4, 4)).astype(np.float32)
    report = export.build(Border(), format="native-int8", calibration=given)
    assert report.findings.parity is not None


@pytest.mark.parametrize("name", FORMATS)
def test_each_of_several_builds_is_verified(tmp_path: Path, name: str) -> None:
    """onnxruntime orders what is in an `ort` file anew at each conversion."""
    for number in range(4):
        out = tmp_path / f"{number}{suffix_of(name)}"
        export.build(a_model(), out, format=name, calibration=INPUTS)
        report = export.verify(out, a_model(), calibration=INPUTS)
        assert report.format == name


def test_an_ort_file_of_other_weights_or_labels_is_named(tmp_path: Path) -> None:
    out, other = tmp_path / "m.ort", a_model()
    with torch.no_grad():
        other[3].bias += 1
    labels = ("a", "b", "c", "d")
    export.build(a_model(), out, format="ort", calibration=INPUTS, labels=labels)
    with pytest.raises(ExportError, match="another labels"):
        export.verify(out, a_model(), calibration=INPUTS)
    with pytest.raises(ExportError):
        export.verify(out, other, calibration=INPUTS, labels=labels)
    assert export.verify(out, a_model(), calibration=INPUTS, labels=labels).format
