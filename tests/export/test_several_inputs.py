"""Modules of several inputs: built, run, checked and bundled as those of one."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several import SHAPES, Three, inputs
from torch import nn

import export
from edge_sdk.errors import CheckpointError, DataError, EdgeError, ExportError
from edge_sdk.infer import Bundle, NativeModel
from edge_sdk.infer.input_parts import parts_of
from edge_sdk.infer.own import HEADER
from edge_sdk.infer.prepare import read_examples
from export.modules import from_module
from export.modules.named import read_examples as examples_in
from export.modules.named import read_shape

FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8", "ort", "native")


def expected(given: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found = Three().eval()(*(torch.from_numpy(one) for one in given.values()))
    return np.asarray(found)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("three") / "three.flsp"
    export.build(Three(), out, format="native", input_shape=SHAPES)
    return out


def test_every_format_takes_each_input_for_itself(tmp_path: Path) -> None:
    given = inputs(400)
    model = Three()
    made = export.build(
        model, tmp_path, formats=(*FORMATS, "native-int8"), calibration=given
    )
    wanted = expected(given)
    exact = {"onnx", "onnx-sparse", "ort", "native"}
    for name, path in made.files.items():
        loaded = export.load(path)
        found = loaded(given)
        assert np.array_equal(found, loaded(tuple(given.values()))), name
        off = np.abs(found - wanted)
        if name in exact:
            assert off.max() <= 1e-5 * np.abs(wanted).max(), name
        else:  # a few examples lie beyond those that it was calibrated on
            assert off.mean() <= 0.05 * wanted.std(), name
        export.verify(path, model, calibration=given)
    assert "out.weight" in set(from_module(model, SHAPES).mask)


def test_the_native_file_says_what_it_takes(file: Path) -> None:
    model = NativeModel(file)
    said = [(part.name, part.shape, part.dtype) for part in model.inputs]
    assert said == [
        ("image", (3, 8, 8), "float32"),
        ("ids", (5,), "int64"),
        ("extra", (2,), "float32"),
    ]
    given = inputs(3)
    rows = np.concatenate(
        [one.reshape(3, -1).astype(np.float32) for one in given.values()], axis=1
    )
    wanted = expected(given)
    assert np.abs(model.run(given) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.array_equal(model.run(rows), model.run(given))


WRONG: dict[str, tuple[Any, str]] = {
    "too few": (lambda g: (g["image"], g["ids"]), "inputs image, ids, extra; given"),
    "another name": (lambda g: {**g, "more": g["ids"]}, "given were .*more"),
    "shape": (lambda g: {**g, "ids": g["ids"][:, :4]}, r"'ids' has shape \(3, 4\)"),
    "dtype": (lambda g: {**g, "ids": g["ids"] / 2}, "'ids' is float64, .* int64"),
    "examples": (lambda g: {**g, "extra": g["extra"][:2]}, "image 3, ids 3, extra 2"),
    "no examples": (lambda g: {k: v[:0] for k, v in g.items()}, "image 0, ids 0"),
    "words": (lambda g: {**g, "extra": g["extra"].astype(str)}, "'extra' is <U"),
}


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_do_not_fit_are_named(file: Path, case: str) -> None:
    change, said = WRONG[case]
    for run in (NativeModel(file).run, export.load(file)):
        with pytest.raises(DataError, match=said):
            run(change(inputs(3)))


def test_a_model_of_one_input_refuses_several(tmp_path: Path) -> None:
    out = tmp_path / "one.flsp"
    export.build(nn.Linear(4, 2), out, format="native", input_shape=4)
    for run in (NativeModel(out).run, export.load(out)):
        with pytest.raises(DataError, match="has one input; 2 were given"):
            run((np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one shape": ({"input_shape": 4}, "takes image, ids, extra; one input was given"),
    "two shapes": ({"input_shape": SHAPES[:2]}, "takes image, ids, extra; .* are 2"),
    "four shapes": ({"input_shape": (*SHAPES, (1,))}, "inputs given are 4"),
    "other names": (
        {"input_shape": {"image": (3, 8, 8), "id": (5,), "extra": (2,)}},
        "inputs given are image, id, extra; ids is missing",
    ),
    "unlike shapes": ({"input_shape": ((3, 8, 8), (5,), (3,))}, "extra \\(3,\\)"),
    "no size": ({"input_shape": ((3, 8, 8), (0,), (2,))}, "at least 1"),
    "one array": (
        {"input_shape": SHAPES, "calibration": np.zeros((2, 199))},
        "calibration has ndarray, the model takes image, ids, extra",
    ),
    "shape of an array": (
        {"input_shape": SHAPES, "calibration": {**inputs(2), "ids": np.zeros((2, 4))}},
        "'ids' has shape",
    ),
    "unequal": (
        {"calibration": {**inputs(2), "ids": np.zeros((3, 5), np.int64)}},
        "image 2, ids 3, extra 2",
    ),
    "targets": (
        {"calibration": {**inputs(2), "targets": np.zeros(3)}},
        "2 inputs and 3 targets",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_module_of_several_inputs_is_not_is_named(case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(EdgeError, match=said):
        from_module(
            Three(), given.get("input_shape"), calibration=given.get("calibration")
        )


def test_hooks_before_a_forward_of_several_inputs_are_refused() -> None:
    model = Three()
    model.register_forward_pre_hook(lambda _, given: given)
    with pytest.raises(ExportError, match="hooks before its forward"):
        from_module(model, SHAPES)


def test_examples_may_be_a_pair_with_targets_or_a_file(tmp_path: Path) -> None:
    given, targets = inputs(6), np.arange(6) % 4
    np.savez(tmp_path / "eval.npz", **given, targets=targets)
    forms: tuple[Any, ...] = (
        (given, targets),
        (tuple(given.values()), targets),
        (*given.values(), targets),
        examples_in(tmp_path),
    )
    for form in forms:
        found = from_module(Three(), calibration=form).given
        assert found is not None
        assert found.targets is not None
        assert np.array_equal(found.targets, targets)
        assert found.batch.shape == (6, 3 * 8 * 8 + 5 + 2)


def test_a_command_names_several_shapes() -> None:
    assert read_shape("3,8,8;5;2") == SHAPES
    assert read_shape("3x8x8") == (3, 8, 8)


def test_a_bundle_of_several_inputs_is_run_from_their_file(tmp_path: Path) -> None:
    folder, given = tmp_path / "bundle", inputs(4)
    export.make_bundle(Three(), folder, calibration=given, seconds=0)
    assert (
        "image (3, 8, 8) float32, ids (5,) int64" in (folder / "README.md").read_text()
    )
    bundle = Bundle(folder)
    assert bundle.check() <= 1e-5
    np.savez(tmp_path / "own.npz", **given)
    golden = np.load(folder / "golden" / "inputs.npz")
    assert {name: golden[name].dtype for name in golden.files} == {
        name: one.dtype for name, one in given.items()
    }
    text = (folder / "README.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        names: dict[str, Any] = {}
        placed = re.sub(r'"(golden|model)', rf'"{folder}/\1', code)
        exec(placed, names)  # noqa: S102 - the snippet is what is tested
        assert names["output"].shape == (1, 4)
    rows = read_examples(tmp_path / "own.npz", bundle.preparation)
    assert np.array_equal(bundle.predict(rows), bundle.model.run(given))


@pytest.mark.parametrize(
    "inputs",
    [
        7,
        [],
        [3],
        [{"name": "a", "shape": [2], "dtype": "float32"}],
        [{"name": "a", "shape": [199], "dtype": "float16"}],
        [{"name": "a", "shape": [-199], "dtype": "bool"}],
        [{"name": "a", "shape": 199, "dtype": "bool"}],
        [{"name": "a", "shape": [199], "dtype": "bool", "more": 1}],
    ],
)
def test_metadata_that_lists_other_inputs_is_refused(file: Path, inputs: Any) -> None:
    with pytest.raises(ValueError, match="inputs"):
        parts_of(inputs, (199,))
    content = bytearray(file.read_bytes())
    at = content.index(b'"inputs":')
    end = content.index(b"]", content.index(b'"extra"', at) + 1)
    end = content.index(b"]", end + 1) + 1
    text = b'"inputs":' + json.dumps(inputs).encode()
    content[at:end] = text.ljust(end - at)
    content[16:20] = zlib.crc32(memoryview(content)[HEADER.size :]).to_bytes(
        4, "little"
    )
    with pytest.raises(CheckpointError, match="its inputs"):
        NativeModel(bytes(content))
