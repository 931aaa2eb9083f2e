"""Converters that are a gigabyte each: tested where one is installed.

python -m venv /tmp/x && /tmp/x/bin/pip install -e '.[dev,executorch]'
/tmp/x/bin/pytest tests/export/test_extras.py
"""

import hashlib
import importlib.util
import json
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several import SHAPES, Three
from torch import nn

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import DependencyError, ExportError
from export.builder import written
from export.places import suffix_of

MODULES = {
    "executorch": "executorch",
    "litert": "litert_torch",
    "coreml": "coremltools",
}
# What each format makes of a dtype.
DTYPES = {
    "executorch": {"int64": "int64", "bool": "bool"},
    "litert": {"int64": "int32", "bool": "bool"},
    "coreml": {"int64": "int32", "bool": "float32"},
}
pytestmark = pytest.mark.filterwarnings("ignore")


def installed(name: str) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


def needs(name: str) -> None:
    if not installed(name):
        pytest.skip(f"the extra {name} is not installed")


@pytest.mark.parametrize("name", MODULES)
def test_a_converted_model_passes_its_gates(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    needs(name)
    out = tmp_path / f"model.{name}"
    report = export.build(checkpoint, format=name, out=out)
    assert report.findings.weights_checked == len(checkpoint.layers)
    assert [part["name"] for part in report.inputs] == ["input"]
    assert [part["name"] for part in report.outputs] == ["output"]
    if name == "coreml":  # converts here, predicts on Apple's systems only
        assert report.findings.parity is None
        assert "not compared" in "\n".join(report.lines())
        assert zipfile.ZipFile(out).testzip() is None
    else:
        assert report.findings.parity is not None
        assert report.findings.parity.max_relative <= 1e-5
    with pytest.raises(ExportError, match="fixed batch"):
        export.build(checkpoint, format=name, batch="dynamic")


class Parts(nn.Module):
    """Inputs of three dtypes; outputs in a dictionary, one twice and one an input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out = nn.Embedding(50, 8), nn.Linear(12, 3)
        self.box = nn.Linear(4, 5)

    def forward(
        self, ids: torch.Tensor, extra: torch.Tensor, flag: torch.Tensor
    ) -> dict[str, Any]:
        found = self.out(torch.cat([self.words(ids).mean(1), extra], 1)) * flag
        box = self.box(extra)
        return {
            "class": found,
            "box": {"x 1": box, "again": box},
            "ids": ids,
            "sure": found > 0,
            "top": found.argmax(1),
        }


GIVEN: dict[str, Any] = {
    "ids": np.array([[0, 49, 7, 7], [3, 2, 1, 0]]),
    "extra": np.array([[0.5, -1, 2, 0], [0, 1, 1, -3]], np.float32),
    "flag": np.array([[True], [False]]),
}
OUTPUTS = {
    "class": (3,),
    "box_x_1": (5,),
    "box_again": (5,),
    "ids_output": (4,),
    "sure": (3,),
    "top": (),
}


def run_by_name(name: str, content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs for the first example, as an app asks the format's runtime for them."""
    first = {key: one[:1] for key, one in GIVEN.items()}
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content)
        first["ids"] = first["ids"].astype(np.int32)
        return dict(interpreter.get_signature_runner()(**first))
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(content)
    takes = program.load_method("get_input_names").execute([])
    gives = program.load_method("get_output_names").execute([])
    given = [torch.from_numpy(first[key]) for key in takes]
    found = program.load_method("forward").execute(given)
    return {key: one.numpy() for key, one in zip(gives, found, strict=True)}


@pytest.mark.parametrize("name", MODULES)
def test_inputs_and_outputs_have_their_names(tmp_path: Path, name: str) -> None:
    needs(name)
    model, out = Parts(), tmp_path / f"model{suffix_of(name)}"
    report = export.build(model, format=name, out=out, calibration=GIVEN)
    takes = {"ids": "int64", "extra": "float32", "flag": "bool"}
    assert [(part["name"], part["dtype"]) for part in report.inputs] == [
        (key, DTYPES[name].get(dtype, dtype)) for key, dtype in takes.items()
    ]
    assert [part["shape"] for part in report.inputs] == [[4], [4], [1]]
    assert {p["name"]: tuple(p["shape"]) for p in report.outputs} == OUTPUTS
    assert f"inputs: ids (4) {DTYPES[name]['int64']}; extra (4) float32; flag (1) " in (
        text := "\n".join(report.lines())
    )
    assert "outputs: class (3); " in text
    again = export.verify(out, model, calibration=GIVEN)
    assert (again.inputs, again.outputs) == (report.inputs, report.outputs)
    assert json.loads(report.to_json())["inputs"][0]["name"] == "ids"
    if name == "coreml":
        return
    found = run_by_name(name, out.read_bytes())
    with torch.no_grad():
        wanted = model(*(torch.from_numpy(one[:1]) for one in GIVEN.values()))
    wanted |= {f"box_{key.replace(' ', '_')}": x for key, x in wanted["box"].items()}
    wanted["ids_output"] = wanted["ids"]
    assert {*found} == {*OUTPUTS}
    for key, one in found.items():
        np.testing.assert_allclose(one, wanted[key].numpy(), rtol=1e-5, atol=1e-6)


class Held(nn.Module):
    """One argument that holds all, by keys that are no names of arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(5, 3)

    def forward(self, held: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.cat(list(held.values()), 1))
        return found


@pytest.mark.parametrize("name", MODULES)
def test_keys_become_names_that_runtimes_take(name: str) -> None:
    needs(name)
    shapes: Any = {"class": (1,), "self": (1,), "1": (1,), "a b": (1,), "a_b": (1,)}
    report = export.build(Held(), format=name, input_shape=shapes)
    assert [part["name"] for part in report.inputs] == [
        *("class_", "self_", "_1", "a_b", "a_b_input")
    ]


@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_a_file_of_before_takes_a_row(tmp_path: Path, name: str) -> None:
    needs(name)
    from export.modules import from_module

    source = from_module(Three(), SHAPES)
    row = source.example(1)
    if name == "litert":
        import litert_torch

        with tempfile.TemporaryDirectory() as folder:
            litert_torch.convert(source.model, (row,)).export(f"{folder}/m.tflite")
            content = Path(folder, "m.tflite").read_bytes()
    else:
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(source.model, (row,))
        content = bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    made = export.build(Three(), format=name, input_shape=SHAPES)
    file = tmp_path / f"model{suffix_of(name)}"
    written(content, replace(made, sha256=hashlib.sha256(content).hexdigest()), file)
    report = export.verify(file, Three(), input_shape=SHAPES)
    assert [part["shape"] for part in report.inputs] == [[3 * 8 * 8 + 5 + 2]]
    assert report.findings.parity is not None


@pytest.mark.parametrize("name", MODULES)
def test_a_package_is_whole_and_junk_is_refused(tmp_path: Path, name: str) -> None:
    """Of a model whose weights are few coremltools leaves their folder empty."""
    needs(name)
    file = tmp_path / f"model{suffix_of(name)}"
    model = nn.Linear(4, 2)
    report = export.build(model, format=name, out=file, input_shape=(4,))
    export.verify(file, model, input_shape=(4,))
    junk = b"no model" * 40
    digest = hashlib.sha256(junk).hexdigest()
    written(junk, replace(report, sha256=digest), file)
    with pytest.raises(ExportError, match="does not run the file"):
        export.verify(file, model, input_shape=(4,))


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_converter_is_named_with_its_extra(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    if installed(name):
        pytest.skip(f"the extra {name} is installed")
    out = tmp_path / "model"
    with pytest.raises(DependencyError, match=MODULES[name]) as caught:
        export.build(checkpoint, format=name, out=out)
    assert f"flash-edge[{name}]" in caught.value.help
    assert not out.exists()


@pytest.mark.parametrize("name", MODULES)
def test_such_a_format_does_not_go_into_a_bundle(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ExportError, match="does not go into a bundle"):
        export.make_bundle(checkpoint, tmp_path / "b", formats=(name,))
    assert list(tmp_path.iterdir()) == []
