"""Sorting in the native runtime equals onnxruntime's and torch's."""

from typing import Any

import numpy as np
import pytest
import torch
from native_graphs import compare, ints, lowered_run, model_of, node
from torch import nn

import export
from edge_sdk.errors import CheckpointError, ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import write
from export.native.program import Kind, Operation, Order, Program, Shape

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
IMAGE, ROWS = (6, 5, 7), (5, 40)


def graph(shape: tuple[int, ...], count: int, places: bool, **how: int) -> Any:
    """Values in order, or their places, as floats."""
    nodes = [
        node("Tanh", ["input"], ["x"]),
        node("TopK", ["x", "k"], ["values", "places"], **how),
        node("Cast", ["places"], ["floats"], to=1),
        node("Identity", ["floats" if places else "values"], ["output"]),
    ]
    return model_of(nodes, {"k": ints(count)}, shape)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize(
    ("shape", "count", "how"),
    [
        (ROWS, 7, {}),
        (ROWS, 40, {"largest": 0}),
        (ROWS, 1, {"axis": -1}),
        (ROWS, 5, {"axis": 1}),
        (IMAGE, 3, {"axis": 1, "largest": 0}),
        (IMAGE, 4, {"axis": 2}),
        (IMAGE, 7, {"axis": 3}),
        ((30,), 30, {}),
    ],
)
def test_the_first_of_an_axis_are_onnxruntimes(
    shape: tuple[int, ...], count: int, how: dict[str, int], places: bool
) -> None:
    compare(graph(shape, count, places, **how), shape)


@pytest.mark.parametrize("largest", [0, 1])
def test_of_equal_values_the_first_comes_first(largest: int) -> None:
    rows = np.random.default_rng(3).integers(-2, 3, (1, *ROWS)).astype(np.float32)
    found = lowered_run(graph(ROWS, 12, places=True, largest=largest), rows)
    wanted = np.argsort(-rows if largest else rows, axis=-1, kind="stable")
    assert (found.reshape(1, 5, 12) == wanted[..., :12]).all()


@pytest.mark.parametrize("descending", [False, True])
def test_what_is_not_a_number_is_the_largest(descending: bool) -> None:
    row = np.array([[2, np.nan, -1, np.inf, np.nan, 0, -np.inf]], np.float32)
    wanted = torch.sort(torch.from_numpy(row), descending=descending, stable=True)
    orders = [Order.SMALLEST_FIRST, Order.WHERE_SMALLEST]
    if descending:
        orders = [Order.LARGEST_FIRST, Order.WHERE_LARGEST]
    for order, values in zip(orders, wanted, strict=True):
        shapes = Shape(1, 1, 7), Shape(1, 1, 7)
        operation = Operation(Kind.SORT_ROW, 0, 1, extra=int(order))
        native = NativeModel(write(Program(shapes, (operation,), (), 1), {}))
        found = native.run(row.reshape(1, *native.input_shape)).reshape(1, 7)
        np.testing.assert_array_equal(found, values.numpy().astype(np.float32))


class Detections(nn.Module):
    """The boxes of a map with the best scores, as heads of detectors give them."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best = self.scores(x).flatten(2).amax(1)
        values, places = best.topk(5)
        return values.sigmoid(), torch.argsort(best, descending=True)[:, :3] + places[
            :, :3
        ]


def test_a_head_that_sorts_passes_the_gates() -> None:
    given = np.random.default_rng(0).standard_normal((8, 3, 9, 9)).astype(np.float32)
    found = export.build(Detections(), formats=("onnx", "native"), calibration=given)
    assert list(found) == ["onnx", "native"]


@pytest.mark.parametrize(
    ("shape", "made", "extra"),
    [
        (Shape(2, 1, 9), Shape(2, 1, 10), 0),
        (Shape(2, 1, 9), Shape(3, 1, 9), 0),
        (Shape(2, 2, 9), Shape(2, 1, 9), 0),
        (Shape(2, 1, 9), Shape(2, 1, 9), 4),
    ],
)
def test_an_order_that_does_not_fit_is_no_file(
    shape: Shape, made: Shape, extra: int
) -> None:
    operation = Operation(Kind.SORT_ROW, 0, 1, extra=extra)
    content = write(Program((shape, made), (operation,), (), 1), {})
    with pytest.raises(CheckpointError, match="sorted shape"):
        NativeModel(content)


def test_a_count_that_is_computed_is_refused_by_name() -> None:
    nodes = [
        node("ReduceMax", ["input", "axes"], ["m"], keepdims=0),
        node("Cast", ["m"], ["k"], to=7),
        node("TopK", ["input", "k"], ["output", "places"]),
    ]
    with pytest.raises(ExportError, match="TopK"):
        lowered_run(
            model_of(nodes, {"axes": ints(1, 2)}, ROWS), np.ones((1, *ROWS), np.float32)
        )
