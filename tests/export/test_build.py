"""Building and verifying: what is written is exact, and what is not is not written."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import CheckpointError, DataError, ExportError, TaskError
from export import builder
from export.checks import gates, reference
from export.modules import from_module
from export.passes.describe import description
from export.passes.graph import replace_array
from export.rebuild import from_checkpoint
from export.runtime import metadata, open_session, predict
from export.targets import Product
from export.targets.table import TARGETS, find_target

EXACT_ONNX = [t.name for t in TARGETS.values() if t.reader == "onnx" and t.exact]


@pytest.mark.parametrize("batch", ["1", "dynamic"])
@pytest.mark.parametrize("name", EXACT_ONNX)
def test_an_exact_export_passes_every_gate(
    checkpoint: Checkpoint, tmp_path: Path, name: str, batch: str
) -> None:
    out = tmp_path / "model.onnx"
    report = export.build(checkpoint, format=name, out=out, batch=batch)
    found = report.findings
    assert found.checker
    assert found.bitwise
    assert found.folded
    assert found.weights_checked == len(checkpoint.layers)
    assert found.parity.max_relative <= 1e-5
    assert report.file_bytes == out.stat().st_size
    assert report.mask_digest == checkpoint.mask.digest.hex()
    assert export.verify(out, checkpoint).findings == found
    assert json.loads(report.to_json())["findings"]["parity"]["examples"] == 32


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Checkpoint) -> None:
    first, second = (export.build(checkpoint).sha256 for _ in range(2))
    assert first == second


def test_the_file_carries_its_description_and_no_path(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    report = export.build(checkpoint, out=out)
    content = out.read_bytes()
    assert b".py" not in content
    assert b"/home" not in content
    facts = description(onnx.load(out))
    assert json.loads(facts["labels"]) == list("abcdefghij")
    assert float(facts["density"]) == pytest.approx(checkpoint.mask.density)
    assert float(facts["mac_density"]) == report.mac_density
    assert metadata(open_session(content))["flash_edge.task"] == "tiny"


def test_sparse_is_smaller_and_mac_density_is_counted(checkpoint: Checkpoint) -> None:
    dense, sparse = (export.build(checkpoint, format=f) for f in EXACT_ONNX[::-1])
    assert sparse.file_bytes < 0.6 * dense.file_bytes
    assert dense.size_ratio == 1.0
    # conv 12x12: 144 and 144 (after 2x2 pooling: 36) outputs per weight
    counts = checkpoint.mask.counts
    spots = {"stem": 144, "body": 36, "depthwise": 36, "hidden": 1, "out": 1}
    kept = sum(counts[f"{n}.weight"] * k for n, k in spots.items())
    assert sparse.mac_density == pytest.approx(kept / sparse.macs)


def test_weights_that_the_exporter_transposes_are_checked_too(
    sequence_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "m.onnx"
    report = export.build(sequence_checkpoint, out=out)
    assert report.findings.weights_checked == 2
    names = {output for n in onnx.load(out).graph.node for output in n.output}
    assert "each.weight.transposed" in names


def test_parity_uses_the_evaluation_examples_when_there_are_some(
    checkpoint: Checkpoint, data_folder: Path, tmp_path: Path
) -> None:
    parity = export.build(checkpoint, data=data_folder).findings.parity
    assert parity.inputs == "evaluation examples of tiny"
    assert parity.examples == 64
    with pytest.raises(TaskError, match=r"reading .* FileNotFoundError: .*eval\.npz"):
        export.build(checkpoint, data=tmp_path)


def test_kept_weights_of_value_zero_are_counted_not_refused(
    checkpoint: Checkpoint,
) -> None:
    values = {n: v.copy() for n, v in checkpoint.values.items()}
    values["out.weight"][:5] = 0
    zeroed = dataclasses.replace(checkpoint, values=values)
    assert export.build(zeroed).findings.kept_zeros == 5


def test_any_torch_model_with_zeros_can_be_exported(checkpoint: Checkpoint) -> None:
    model = from_checkpoint(checkpoint).model
    source = from_module(model, (1, 12, 12), name="theirs")
    report = export.build_source(source)
    assert report.task == "theirs"
    assert report.findings.bitwise


def pruned_by_torch() -> torch.nn.Module:
    from torch.nn.utils import prune

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(800, 10),
    )  # fmt: skip
    layers = [(model[0], "weight"), (model[3], "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.8)
    return model


def reparametrised() -> torch.nn.Module:
    class Keep(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return torch.where(weight.abs() > 0.3, weight, 0.0)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 10))
    torch.nn.init.normal_(model[1].weight, std=0.2)
    torch.nn.utils.parametrize.register_parametrization(model[1], "weight", Keep())
    return model


@pytest.mark.parametrize("make", [pruned_by_torch, reparametrised])
@pytest.mark.parametrize("name", ["onnx-sparse", "native"])
def test_masks_that_a_pruning_tool_still_applies_are_made_permanent(
    make, name: str
) -> None:
    model = make()
    keys = list(model.state_dict())
    report = export.build_source(from_module(model, (1, 12, 12)), format=name)
    assert 0.1 < report.density < 0.25
    assert report.findings.parity.max_relative <= 1e-5
    assert list(model.state_dict()) == keys  # the user's model is as it was


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Checkpoint) -> None:
    other = dataclasses.replace(checkpoint, task="flash_tiny_task:sequence")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        export.build(other)


def test_an_unknown_format_is_answered_with_those_there_are(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(ExportError, match="no format 'tflite'") as caught:
        export.build(checkpoint, format="tflite")
    assert "onnx-sparse" in caught.value.help


# ------------------------------------------------------------------ gates that close


def tampered(checkpoint: Checkpoint, change) -> None:
    """Runs the gates on a product whose model was changed after it was made."""
    source = from_checkpoint(checkpoint)
    material, _ = builder.prepare(source, batch="1", data=None)
    target = find_target("onnx")
    model = target.make(material).model
    change(model)
    product = Product(model.SerializeToString(), model, material.dense)
    gates.check(product, target, source, source.inputs(None, 8))


def test_a_weight_off_the_mask_closes_the_gate(checkpoint: Checkpoint) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(i for i in model.graph.initializer if i.name == "out.weight")
        array = numpy_helper.to_array(tensor).copy()
        array[~checkpoint.mask["out.weight"]] = 1e-30
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    with pytest.raises(ExportError, match=r"out\.weight: .* off the mask are not zero"):
        tampered(checkpoint, change)


def test_a_kept_weight_that_became_zero_closes_the_gate(
    checkpoint: Checkpoint,
) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(i for i in model.graph.initializer if i.name == "out.weight")
        array = numpy_helper.to_array(tensor).copy()
        array[0, np.flatnonzero(array[0])[0]] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    with pytest.raises(ExportError, match=r"out\.weight: 1 kept weights became zero"):
        tampered(checkpoint, change)


def test_other_outputs_than_torch_close_the_gate_with_the_numbers(
    checkpoint: Checkpoint,
) -> None:
    def change(model: onnx.ModelProto) -> None:
        replace_array(model, "out.bias", np.full(10, 0.5, np.float32))

    with pytest.raises(ExportError, match=r"differ from torch by \d.*1e-05 is allowed"):
        tampered(checkpoint, change)


def test_a_last_bit_that_differs_closes_the_gate(checkpoint: Checkpoint) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(i for i in model.graph.initializer if i.name == "out.bias")
        array = np.nextafter(numpy_helper.to_array(tensor), np.float32(10))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    with pytest.raises(ExportError, match="not bitwise equal"):
        tampered(checkpoint, change)


def test_an_unfoldable_weight_closes_the_gate(checkpoint: Checkpoint) -> None:
    """NonZero is not folded by onnxruntime: the weight would be rebuilt every run."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(i for i in model.graph.initializer if i.name == "out.weight")
        array = numpy_helper.to_array(tensor)
        tensor.name = "flat"
        bits, shape = (array != 0), np.array(array.shape, np.int64)
        replace_array(model, "flat", array[array != 0])
        replace_array(model, "bits", bits)
        replace_array(model, "shape", shape)
        zero = numpy_helper.from_array(np.zeros(1, np.float32))
        nodes = [
            helper.make_node("NonZero", ["bits"], ["spots"]),
            helper.make_node("Transpose", ["spots"], ["pairs"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"], value=zero),
            helper.make_node("ScatterND", ["zeros", "pairs", "flat"], ["out.weight"]),
        ]
        for node in reversed(nodes):
            model.graph.node.insert(0, node)

    with pytest.raises(ExportError, match=r"did not fold .*NonZero"):
        tampered(checkpoint, change)


def test_a_model_the_checker_refuses_closes_the_gate(checkpoint: Checkpoint) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[1] = "nowhere"

    with pytest.raises(ExportError, match=r"onnx\.checker refuses"):
        tampered(checkpoint, change)


def test_a_failed_gate_writes_nothing_and_keeps_the_old_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the old one")
    monkeypatch.setattr(reference, "PARITY", 0.0)
    monkeypatch.setattr(reference, "OWN", 0.0)
    with pytest.raises(ExportError, match="differ from torch"):
        export.build(checkpoint, out=out)
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


# ---------------------------------------------------------------------- bad files


@pytest.fixture(scope="module")
def built(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "model.onnx"
    export.build(checkpoint, out=path)
    return path


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(
    built: Path, checkpoint: Checkpoint, tmp_path: Path, kept: float
) -> None:
    content = built.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ExportError):
        export.verify(cut, checkpoint)


def test_a_file_of_another_mask_is_refused(
    built: Path, sequence_checkpoint: Checkpoint
) -> None:
    with pytest.raises(ExportError, match=r"has mask .* the checkpoint has"):
        export.verify(built, sequence_checkpoint)


def test_a_changed_value_in_the_file_is_found(
    built: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = onnx.load(built)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("v"))
    array = numpy_helper.to_array(tensor).copy()
    array[-1] *= 1.001
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    with pytest.raises(ExportError, match="the digest in it is not that of its bytes"):
        export.verify(changed, checkpoint)
    kept = [e for e in model.metadata_props if not e.key.endswith(".digest")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, changed)
    with pytest.raises(ExportError, match=r"torch|bitwise"):
        export.verify(changed, checkpoint)


def test_a_missing_or_foreign_file_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        export.verify(tmp_path / "none.onnx", checkpoint)
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    with pytest.raises(ExportError, match="not an ONNX"):
        export.verify(text, checkpoint)


def test_a_folder_that_cannot_be_written_is_an_error(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model.onnx"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="could not be written"):
        export.build(checkpoint_file, out=folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_default_file_lies_beside_the_checkpoint(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "tiny.safetensors"
    shutil.copy(checkpoint_file, copy)
    report = export.build(copy)
    assert Path(report.file) == tmp_path / "tiny.onnx-sparse.onnx"
    batch = np.zeros((3, 1, 12, 12), np.float32)
    assert predict(open_session(report.file), batch).shape == (3, 10)


def test_a_module_has_no_evaluation_examples(
    checkpoint: Checkpoint, data_folder: Path
) -> None:
    source = from_module(from_checkpoint(checkpoint).model, (1, 12, 12))
    with pytest.raises(DataError, match="no evaluation examples"):
        export.build_source(source, data=data_folder)


@pytest.mark.parametrize("name", ["onnx-sparse", "native"])
def test_dead_channels_of_a_foreign_model_are_removed_and_the_rest_checked(
    checkpoint: Checkpoint, name: str
) -> None:
    model = from_checkpoint(checkpoint).model
    with torch.no_grad():
        model.hidden.weight[5] = 0  # no inputs, and its norm gives a negative value
        model.hidden_norm.bias[5] = -9.0
        model.out.weight[:, 7] = 0  # read by nobody
    source = from_module(model, (1, 12, 12))
    report = export.build_source(source, format=name)
    assert "RemoveDeadChannels: 2 dead channels removed" in report.notes
    assert report.findings.weights_checked == 5
