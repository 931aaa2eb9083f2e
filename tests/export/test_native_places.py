"""Lookups at computed places, writing there, and sampling equal onnxruntime's."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from native_graphs import array, compare, ints, lowered_run, model_of, node
from torch import nn

import export
from edge_sdk.errors import CheckpointError, ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.lower import lower
from export.native.program import Cell, Kind, Operation, Program, Shape, Weight

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
IMAGE = (4, 6, 5)
Case = tuple[list[onnx.NodeProto], dict[str, Any]]


def places(name: str, size: int) -> list[onnx.NodeProto]:
    """Whole numbers from -size to size - 1, made of a value."""
    return [
        node("Tanh", [name], [f"{name}_t"]),
        node("Mul", [f"{name}_t", "size"], [f"{name}_m"]),
        node("Floor", [f"{name}_m"], [f"{name}_f"]),
        node("Cast", [f"{name}_f"], ["places"], to=7),
    ]


def gather(axis: int) -> Case:
    """Rows of a value by a few computed numbers."""
    nodes = [
        node("Slice", ["input", "from", "to", "axes"], ["few"]),
        node("Reshape", ["few", "flat"], ["numbers"]),
        *places("numbers", IMAGE[axis - 1]),
        node("Gather", ["input", "places"], ["output"], axis=axis),
    ]
    size = np.float32(IMAGE[axis - 1] - 0.001)
    arrays = {"from": ints(0, 0, 1), "to": ints(1, 3, 3), "axes": ints(1, 2, 3)}
    return nodes, {**arrays, "flat": ints(2, 3), "size": size}


def gather_elements(axis: int, part: int) -> Case:
    """A place for each value; of other axes perhaps the first values alone."""
    other = 1 + axis % 3
    nodes = [
        node("Slice", ["input", "from", "to", "axes"], ["few"]),
        *places("few", IMAGE[axis - 1]),
        node("GatherElements", ["input", "places"], ["output"], axis=axis),
    ]
    size = np.float32(IMAGE[axis - 1] - 0.001)
    arrays = {"from": ints(0), "to": ints(part), "axes": ints(other)}
    return nodes, {**arrays, "size": size}


def gather_nd() -> Case:
    """Rows by two axes' numbers, of which some count from the end."""
    nodes = [
        node("Slice", ["input", "from", "to", "axes"], ["few"]),
        node("Reshape", ["few", "pairs"], ["numbers"]),
        *places("numbers", 2),
        node("Reshape", ["input", "rows"], ["x"]),
        node("GatherND", ["x", "places"], ["output"]),
    ]
    arrays = {"from": ints(0), "to": ints(2), "axes": ints(3)}
    shapes = {"pairs": ints(12, 4, 1), "rows": ints(4, 6, 5), "size": np.float32(3.9)}
    return nodes, {**arrays, **shapes}


def scatter_elements(axis: int, reduction: str) -> Case:
    nodes = [
        node("Sin", ["input"], ["updates"]),
        *places("input", IMAGE[axis - 1]),
        node(
            *("ScatterElements", ["input", "places", "updates"], ["output"]),
            axis=axis,
            reduction=reduction,
        ),
    ]
    return nodes, {"size": np.float32(IMAGE[axis - 1] - 0.001)}


def scatter_nd(reduction: str) -> Case:
    nodes = [
        node("Reshape", ["input", "rows"], ["x"]),
        node("Slice", ["input", "from", "to", "axes"], ["few"]),
        node("Reshape", ["few", "pairs"], ["numbers"]),
        *places("numbers", 2),
        node("Slice", ["input", "from", "two", "axes"], ["some"]),
        node("Reshape", ["some", "given"], ["updates"]),
        node(
            *("ScatterND", ["x", "places", "updates"], ["output"]), reduction=reduction
        ),
    ]
    arrays = {"from": ints(0), "to": ints(1), "two": ints(4), "axes": ints(3)}
    shapes = {"pairs": ints(24, 1), "rows": ints(30, 4), "given": ints(24, 4)}
    return nodes, {**arrays, **shapes, "size": np.float32(29.9)}


CASES: dict[str, Case] = {
    **{f"gather {axis}": gather(axis) for axis in (1, 2, 3)},
    **{f"elements {a} {n}": gather_elements(a, n) for a in (1, 2, 3) for n in (3, 9)},
    "gather nd": gather_nd(),
    "scatter add 2": scatter_elements(2, "add"),
    "scatter add 3": scatter_elements(3, "add"),
    "scatter 1": scatter_elements(1, "none"),
    "scatter 3": scatter_elements(3, "none"),
    "rows add": scatter_nd("add"),
    "rows": scatter_nd("none"),
}


@pytest.mark.parametrize("case", CASES)
def test_places_are_onnxruntimes(case: str) -> None:
    nodes, arrays = CASES[case]
    compare(model_of(nodes, arrays, IMAGE), IMAGE)


@pytest.mark.parametrize("how", ["mul", "max", "min"])
def test_values_that_are_joined_otherwise_are_refused(how: str) -> None:
    nodes, arrays = scatter_elements(2, how)
    with pytest.raises(ExportError, match=f"joins values by {how}: none and add"):
        lower(model_of(nodes, arrays, IMAGE))


def test_a_place_that_a_value_has_not_gives_no_number() -> None:
    nodes = [
        node("Cast", ["input"], ["places"], to=7),
        node("GatherElements", ["table", "places"], ["output"], axis=1),
    ]
    model = model_of(nodes, {"table": array(1, 5)}, (5,))
    row = np.array([[0, 4, -5, 5, -6]], np.float32)
    found = lowered_run(model, row)[0]
    assert np.isnan(found).tolist() == [False, False, False, True, True]


# -------------------------------------------------------------------- GridSample

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


class Sampled(nn.Module):
    """An image at places that a layer computes, some of them outside."""

    def __init__(self, mode: str, padding: str, corners: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.places = nn.Conv2d(3, 2, 3, padding=1)
        self.how = {"mode": mode, "padding_mode": padding, "align_corners": corners}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = torch.tanh(3 * self.places(x)).permute(0, 2, 3, 1) * 1.9
        found: torch.Tensor = nn.functional.grid_sample(x, at, **self.how)
        return found


@pytest.mark.parametrize("mode", MODES)
def test_images_are_sampled_as_torch_does_it(mode: str) -> None:
    given = np.random.default_rng(0).standard_normal((8, 3, 7, 9)).astype(np.float32)
    for padding, corners in product(PADDINGS, (False, True)):
        model = Sampled(mode, padding, corners)
        report = export.build(model, format="native", calibration=given)
        parity = report.findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5, (padding, corners)


def test_images_that_a_reshape_put_into_the_batch_are_sampled() -> None:
    nodes = [
        node("Reshape", ["input", "images"], ["x"]),
        node("Reshape", ["input", "grids"], ["g"]),
        node("GridSample", ["x", "g"], ["y"], mode="linear"),
        node("Flatten", ["y"], ["output"], axis=0),
    ]
    arrays = {"images": ints(4, 2, 3, 5), "grids": ints(4, 5, 3, 2)}
    compare(model_of(nodes, arrays, (8, 3, 5)), (8, 3, 5), limit=5e-6)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_volumes_are_sampled(mode: str) -> None:
    for padding, corners in product(PADDINGS, (0, 1)):
        nodes = [
            node("Reshape", ["input", "volume"], ["x"]),
            node(
                *("GridSample", ["x", "grid"], ["y"]),
                mode=mode,
                padding_mode=padding,
                align_corners=corners,
            ),
            node("Flatten", ["y"], ["output"], axis=0),
        ]
        arrays = {"volume": ints(1, 2, 3, 4, 5), "grid": array(1, 2, 3, 2, 3) * 0.8}
        compare(model_of(nodes, arrays, (6, 4, 5)), (6, 4, 5), limit=5e-6)


# ------------------------------------------------------------- places of windows


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((4, 6, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((4, 7, 9), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ((3, 8, 7), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
        ((3, 7, 7), {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1}),
        ((3, 9), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ],
)
def test_windows_give_their_places_as_onnxruntimes(
    shape: tuple[int, ...], how: dict[str, Any]
) -> None:
    """Of equal values, which rounding makes here, the first counts."""
    nodes = [
        node("Round", ["input"], ["x"]),
        node("MaxPool", ["x"], ["largest", "places"], **how),
        node("Cast", ["places"], ["numbers"], to=1),
        node("Concat", ["largest", "numbers"], ["output"], axis=1),
    ]
    compare(model_of(nodes, {}, shape), shape, limit=0)


class Unpooled(nn.Module):
    """Windows' largest values back at their places, as a segmentation does it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = {"kernel_size": 2, "return_indices": True}
        small, first = nn.functional.max_pool2d(self.down(x), **pool)
        less, second = nn.functional.max_pool2d(small.tanh(), **pool)
        more = nn.functional.max_unpool2d(less, second, 2)
        found: torch.Tensor = self.up(nn.functional.max_unpool2d(more, first, 2))
        return found


def test_values_go_back_to_the_places_of_their_windows() -> None:
    made = export.build(
        Unpooled(), formats=("onnx-sparse", "native"), input_shape=(3, 8, 12)
    )
    for one in made.values():
        assert one.findings.parity is not None
        assert one.findings.parity.max_relative <= 1e-5


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]},
        {"kernel_shape": [2, 3, 2], "strides": [1, 2, 1], "pads": [1, 1, 0, 0, 1, 1]},
        {"kernel_shape": [2, 1, 2], "dilations": [2, 1, 3]},
        {"kernel_shape": [2, 2, 3], "strides": [2, 2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0]},
    ],
)
def test_windows_of_volumes_give_their_places(how: dict[str, Any]) -> None:
    """Of equal values, which rounding makes here, the first counts."""
    nodes = [
        node("Reshape", ["input", "volume"], ["x0"]),
        node("Round", ["x0"], ["x"]),
        node("MaxPool", ["x"], ["largest", "places"], **how),
        node("Cast", ["places"], ["numbers"], to=1),
        node("Concat", ["largest", "numbers"], ["y"], axis=1),
        node("Flatten", ["y"], ["output"], axis=0),
    ]
    arrays = {"volume": ints(1, 2, 5, 6, 7)}
    compare(model_of(nodes, arrays, (10, 6, 7)), (10, 6, 7), limit=0)


class UnpooledVolume(nn.Module):
    """The largest values of a volume's windows back at their places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = {"kernel_size": 2, "stride": 2, "return_indices": True}
        less, places = nn.functional.max_pool3d(x.unflatten(1, (2, 4)), **pool)
        found: torch.Tensor = nn.functional.max_unpool3d(less.tanh(), places, 2, 2)
        return found


def test_values_of_volumes_go_back_to_the_places_of_their_windows() -> None:
    made = export.build(
        UnpooledVolume(), formats=("onnx", "native"), input_shape=(8, 6, 4)
    )
    for one in made.values():
        assert one.findings.parity is not None
        assert one.findings.parity.max_relative <= 1e-5


def test_places_column_by_column_and_short_floats_are_refused() -> None:
    nodes = [
        node("MaxPool", ["input"], ["y", "places"], kernel_shape=[2, 2],
             storage_order=1),
        node("Cast", ["places"], ["output"], to=1),
    ]  # fmt: skip
    with pytest.raises(ExportError, match=r"MaxPool .* gives places column by column"):
        lower(model_of(nodes, {}, (6, 4, 5)))
    short = [
        node("Cast", ["input"], ["x"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["x"], ["output"], to=1),
    ]
    with pytest.raises(ExportError, match=r"Cast .* rounds to a float of 16 bits"):
        lower(model_of(short, {}, (4, 5)))


# ------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", [Kind.PICK, Kind.PUT])
@pytest.mark.parametrize(
    ("places_of", "made", "extra"),
    [
        (Shape(2, 2, 9), Shape(3, 2, 9), 0),
        (Shape(1, 2, 8), Shape(3, 2, 9), 0),
        (Shape(1, 2, 9), Shape(2, 2, 9), 0),
        (Shape(1, 2, 9), Shape(3, 2, 9), 2),
    ],
)
def test_places_that_do_not_fit_are_no_file(
    kind: Kind, places_of: Shape, made: Shape, extra: int
) -> None:
    image = Shape(3, 2, 9)
    cropped = Shape(3, places_of.height, places_of.width)
    operations = (
        Operation(Kind.CROP, 0, 3),
        Operation(Kind.TAKE, 3, 1),
        Operation(kind, 0, 2, 1, extra=extra),
    )
    content = write(Program((image, places_of, made, cropped), operations, (), 2), {})
    with pytest.raises(CheckpointError, match=r"places|function"):
        NativeModel(content)


@pytest.mark.parametrize("cell", [Cell.GRU, Cell.RNN_TANH, Cell.LSTM])
def test_a_last_cell_that_does_not_fit_is_no_file(cell: Cell) -> None:
    gates = {Cell.GRU: 12, Cell.RNN_TANH: 4, Cell.LSTM: 16}[cell]
    weight = Weight("w", np.ones((gates, 4), np.float32), np.zeros(gates, np.float32))
    steps = 5 if cell is Cell.LSTM else 6
    shapes = Shape(5, 1, gates), Shape(steps, 1, 4)
    operation = Operation(Kind.RECURRENT, 0, 1, weight=0, extra=int(cell) + 32)
    with pytest.raises(CheckpointError, match=r"cell|gates"):
        NativeModel(write(Program(shapes, (operation,), (weight,), 1), {}))
