"""Outputs by the keys and fields that hold them: graphs, native files, bundles."""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import export
from edge_sdk.errors import CheckpointError, DataError, ExportError
from edge_sdk.infer import Bundle, NativeModel
from edge_sdk.infer.output_parts import output_parts_of
from export.checks.output_names import named_outputs
from export.native.fileformat import HEADER

X = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)


class Boxes(NamedTuple):
    mean: torch.Tensor
    log_scale: torch.Tensor


@dataclass
class Found:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None
    loss: torch.Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """An ordered dictionary whose keys are attributes, as transformers returns it."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def _two(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return m.one(x), m.two(x).relu()


FORMS: dict[str, tuple[Any, list[str]]] = {
    "dictionary": (lambda a, b: {"what": a, "where": b}, ["what", "where"]),
    "one key": (lambda a, b: {"logits": a + b.sum(1, keepdim=True)}, ["logits"]),
    "named tuple": (Boxes, ["mean", "log_scale"]),
    "dataclass": (
        lambda a, b: Found(a, (b, a * 2)),
        ["logits", "hidden_0", "hidden_1"],
    ),
    "ordered": (lambda a, b: ModelOutput(logits=a, state=b), ["logits", "state"]),
    "mapping": (lambda a, b: UserDict(left=a, right=b), ["left", "right"]),
    "nested": (
        lambda a, b: {"heads": {"x": a, "y": (b, Boxes(a + 1, b + 1))}, "z": [a * 3]},
        ["heads_x", "heads_y_0", "heads_y_1_mean", "heads_y_1_log_scale", "z_0"],
    ),
    "colliding": (
        lambda a, b: {"a_b": a, "a": {"b": b}, "a_b_2": a * 2},
        ["a_b", "a_b_2", "a_b_2_2"],
    ),
    "no identifiers": (
        lambda a, b: {0: a, "pool": b, "feat 1": a * 2, "": b * 2, "é": a * 3},
        ["output_0", "pool", "feat_1", "output_", "_"],
    ),
    "weights and inputs": (
        lambda a, b: {"gain": a, "x": b, "input": a * 2},
        ["gain_output", "x", "input_output"],
    ),
    "operations": (
        lambda a, b: {
            "relu": a, "linear": b, "mean": a.mean(1), "mul": a * b[:, :1]
        },
        ["relu", "linear", "mean", "mul"],
    ),
    "torch's own": (lambda a, b: (a * b[:, :1]).max(1), ["values", "indices"]),
    "tuple": (lambda a, b: (a, b), ["output_0", "output_1"]),
    "tuple of one": (lambda a, b: (a + b.sum(1, keepdim=True),), ["output"]),
    "twice the same": (lambda a, b: {"a": a, "again": a, "b": b}, ["a", "again", "b"]),
}  # fmt: skip


class Held(nn.Module):
    """Two heads, in whatever holds them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 2)
        self.gain = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: torch.Tensor) -> Any:
        first, second = _two(self, x * self.gain)
        return FORMS[self.form][0](first, second)


MORE = ("onnx-sparse", "onnx-fp16", "onnx-int8", "ort")  # of two forms: it takes long


@pytest.mark.parametrize("form", FORMS)
def test_outputs_have_the_names_of_what_holds_them(form: str, tmp_path: Path) -> None:
    model, names = Held(form), FORMS[form][1]
    more = MORE if form in {"nested", "operations"} else ()
    given: dict[str, Any] = {"calibration": np.tile(X, (20, 1))}
    made = export.build(model, tmp_path, formats=("onnx", "native", *more), **given)
    exact = export.load(made.files["onnx"])
    wanted = exact.apart(exact(X))
    listed = [] if names == ["output"] else names
    for format_, path in made.files.items():
        loaded = export.load(path)
        assert [part.name for part in loaded.outputs] == listed
        found = loaded.apart(loaded(X))
        assert list(found) == names
        if format_ not in {"onnx-int8", "onnx-fp16"}:
            for name in names:
                np.testing.assert_allclose(found[name], wanted[name], 1e-5, 1e-5)
        if path.suffix != ".flsp":
            session = onnxruntime.InferenceSession(str(path))
            assert [o.name for o in session.get_outputs()] == names
            (row,) = session.run(names[-1:], {session.get_inputs()[0].name: X[:1]})
            np.testing.assert_array_equal(row[0], found[names[-1]][0])
    export.verify(path, model, **given)
    export.verify(made.files["onnx"], model, **given)


def test_a_container_of_ones_own_is_numbered() -> None:
    from torch.utils import _pytree

    class Own:
        def __init__(self, held: list[torch.Tensor]) -> None:
            self.held = held

    _pytree.register_pytree_node(
        Own, lambda own: (own.held, None), lambda held, _: Own(list(held))
    )
    assert named_outputs(Own([torch.ones(1), torch.ones(1)])) == [
        "output_0",
        "output_1",
    ]
    assert named_outputs({"a": Own([torch.ones(1)] * 2)}) == ["output_0", "output_1"]


def test_a_bundle_names_its_outputs_and_takes_them_apart(tmp_path: Path) -> None:
    model = Held("dictionary")
    export.make_bundle(
        model, tmp_path / "b", formats=("onnx", "native"), input_shape=(6,), seconds=0
    )
    text = (tmp_path / "b" / "README.md").read_text()
    assert "Outputs of one example: what (4,), where (2,)." in text
    assert '*out = "what";' in text
    assert 'outputNames: ["what"]' in text
    native = Bundle(tmp_path / "b").model
    with torch.no_grad():
        wanted = model(torch.from_numpy(X))
    found = native.apart(native.run(X))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match=r"shape \(3, 5\); 2 outputs .* 6 values"):
        native.apart(np.zeros((3, 5), np.float32))


def test_a_file_of_before_is_verified_by_its_numbers(tmp_path: Path) -> None:
    """Its outputs are called output_0 and output_1, and it lists none."""
    from export.builder import made_by, prepare
    from export.modules import from_module
    from export.recheck import _as_named
    from export.targets.table import find_target

    model = Held("dictionary")
    material, _ = prepare(from_module(model, (6,)), batch="1", data=None)
    for name, suffix in (("onnx", "onnx"), ("ort", "ort")):
        path = tmp_path / f"before.{suffix}"
        path.write_bytes(made_by(find_target(name), _as_named(material, {})).content)
        assert not export.load(path).outputs
        export.verify(path, model, input_shape=(6,))
    names = [o.name for o in onnx.load(tmp_path / "before.onnx").graph.output]
    assert names == ["output_0", "output_1"]


@pytest.mark.parametrize(
    "said",
    [
        *([], {}, "x", [1], [{"name": 1, "shape": [6]}], [{"name": "a"}]),
        [{"name": "a", "shape": [-6]}],
        [{"name": "a", "shape": [7]}],
        [{"name": "a", "shape": [3]}, {"name": "a", "shape": [3]}],
    ],
)
def test_metadata_with_other_outputs_is_refused(said: Any) -> None:
    with pytest.raises(ValueError, match=r"output"):
        output_parts_of(said, (6,))


def test_a_native_file_whose_outputs_are_not_its_programs_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.flsp"
    export.build(Held("dictionary"), format="native", out=path, input_shape=(6,))
    content = bytearray(path.read_bytes())
    at = content.index(b'"shape": [4]')
    content[at + 10 : at + 11] = b"5"
    struct.pack_into("<I", content, 16, zlib.crc32(memoryview(content)[HEADER.size :]))
    with pytest.raises(CheckpointError, match="its outputs are 7 values"):
        NativeModel(bytes(content))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its outputs are 7 values"):
        export.load(path)


def test_an_output_without_values_is_refused_by_its_number() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"all": self.out(x), "none": self.out(x)[:, :0]}

    with pytest.raises(ExportError, match=r"output 1 of 2 has shape .* holds no val"):
        export.build(Empty(), format="onnx", input_shape=(6,))
