"""Several inputs in a graph and in the native runtime: each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from several import SHAPES, Rows, Three, inputs
from torch import nn

import export
from edge_sdk.errors import DataError
from edge_sdk.infer import NativeModel
from edge_sdk.infer.library import InputArray, runtime_library


@pytest.mark.parametrize("batch", ["1", "dynamic"])
def test_a_graph_has_an_input_of_each_name_and_dtype(
    batch: Literal["1", "dynamic"], tmp_path: Path
) -> None:
    names = ("onnx", "onnx-sparse", "onnx-fp16", "ort")
    made = export.build(
        Three(), tmp_path, formats=names, input_shape=SHAPES, batch=batch
    )
    first: Any = 1 if batch == "1" else "batch"
    given = {name: one[:1] for name, one in inputs(1).items()}
    for path in made.files.values():
        session = onnxruntime.InferenceSession(str(path))
        found = [(i.name, i.shape, i.type) for i in session.get_inputs()]
        assert found == [
            ("image", [first, 3, 8, 8], "tensor(float)"),
            ("ids", [first, 5], "tensor(int64)"),
            ("extra", [first, 2], "tensor(float)"),
        ]
        (outputs,) = session.run(None, given)
        assert np.array_equal(outputs, export.load(path)(given))


class Held(nn.Module):
    """One argument that holds all; a weight and an output have names of inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, held: Any) -> dict[str, torch.Tensor]:
        one, other = held.values() if isinstance(held, dict) else held
        found = self.out(torch.cat([one, other], 1)) * self.scale
        return {"output": found, "sum": found.sum(1)}


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        ({"scale": (2,), "output": (3,)}, ["scale_input", "output"]),
        (((2,), (3,)), ["held_0", "held_1"]),
    ],
)
def test_an_argument_may_hold_all_inputs(
    shapes: Any, names: list[str], tmp_path: Path
) -> None:
    made = export.build(
        Held(), tmp_path, formats=("onnx-sparse", "native"), input_shape=shapes
    )
    session = onnxruntime.InferenceSession(str(made.files["onnx-sparse"]))
    assert [i.name for i in session.get_inputs()] == names
    assert not {o.name for o in session.get_outputs()} & {*names}
    given = (np.full((2, 2), 0.5, np.float32), np.ones((2, 3), np.float32))
    with torch.no_grad():
        wanted = Held()(tuple(map(torch.from_numpy, given)))
    joined = np.concatenate([wanted["output"], wanted["sum"][:, None]], axis=1)
    for path in made.files.values():
        np.testing.assert_allclose(export.load(path)(given), joined, rtol=1e-5)
        export.verify(path, Held(), input_shape=shapes)


def test_onnx_files_take_numbers_that_float32_skips(tmp_path: Path) -> None:
    class Parity(nn.Module):
        def forward(self, ids: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
            return extra + (ids % 2)

    examples = np.arange(12).reshape(4, 3), np.zeros((4, 3), np.float32)
    made = export.build(
        Parity(),
        tmp_path,
        formats=("onnx", "native"),
        input_shape=((3,), (3,)),
        calibration=(examples, np.zeros(4)),
    )
    given = np.array([[2**25 + 1, 2**40 + 1, 4]]), np.zeros((1, 3), np.float32)
    assert export.load(made.files["onnx"])(given).tolist() == [[1, 1, 0]]
    with pytest.raises(DataError, match="'ids' holds 1099511627777; float32"):
        export.load(made.files["native"])(given)


def test_files_of_before_take_arrays_and_rows() -> None:
    ids, extra = np.array([[0, 4, 2]]), np.array([[1.0, -2.0, 0.5]], np.float32)
    with torch.no_grad():
        wanted = Rows()(torch.from_numpy(ids), torch.from_numpy(extra))
    folder = Path(__file__).parent / "before"
    for name in ("rows.onnx", "rows.flsp"):
        loaded = export.load(folder / name)
        rows = np.concatenate([ids, extra], axis=1).astype(np.float32)
        for given in ((ids, extra), {"ids": ids, "extra": extra}, rows):
            np.testing.assert_allclose(loaded(given), wanted, rtol=1e-5)
    export.verify(folder / "rows.onnx", Rows(), input_shape=((3,), (3,)), name="rows")


def test_the_c_interface_takes_each_input_and_refuses_others(tmp_path: Path) -> None:
    file = tmp_path / "three.flsp"
    export.build(Three(), file, format="native", input_shape=SHAPES)
    model, library = NativeModel(file), runtime_library()
    given = inputs(2)
    wanted = model.run(given)
    session = model._session()
    out = np.zeros_like(wanted)
    whole = given["ids"].astype(np.int32)

    def ran(*arrays: tuple[Any, int, int]) -> int:
        held = (InputArray * len(arrays))(
            *(InputArray(a.ctypes.data, kind, size) for a, kind, size in arrays)
        )
        code: int = library.flsp_run_several(
            session, held, len(arrays), out.ctypes.data, 2
        )
        return code

    image, extra = (given["image"], 0, 192), (given["extra"], 0, 2)
    assert ran(image, (whole, 2, 5), extra) == 0
    assert np.array_equal(out, wanted)
    assert ran(image, (given["ids"], 1, 5), extra) == 0
    assert ran(image, (given["ids"] - 2**25, 1, 5), extra) == -2
    assert ran(image, (given["ids"], 1, 4), extra) == -1
    assert ran(image, (given["ids"], 1, 5), extra, extra) == -1
    assert ran(image, (given["ids"], 1, -5), extra) == -1
    assert ran(image, (given["ids"], 7, 5), extra) == -1
    assert library.flsp_run_several(session, None, 0, out.ctypes.data, 2) == -1
