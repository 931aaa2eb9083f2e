"""Pools run with the convolution before them, narrow planes two rows to a vector."""

import itertools

import pytest
from native_graphs import array, compare, model_of, node

from edge_sdk.kernels.build import find_compiler, this_machine

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
ISAS = ["v4", "v3", "base"] if this_machine() == "x86_64" else ["base"]
THREADS = (1, 2, 4)
POOLS = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [1, 1], "pads": [1, 1, 1, 0]},
    {"kernel_shape": [2, 3], "strides": [3, 1], "dilations": [2, 1]},
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_behind_a_wide_convolution_equals_onnxruntimes(
    pool: dict[str, object], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for stride, size in itertools.product((1, 2), ((133, 126), (70, 261))):
        shape = (2, *(stride * n for n in size))
        arrays = {"w": array(16, 2, 3, 3), "b": array(16)}
        nodes = [
            node(
                "Conv", ["input", "w", "b"], ["c"], pads=[1] * 4, strides=[stride] * 2
            ),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["output"], **pool),
        ]
        compare(model_of(nodes, arrays, shape), shape, threads=THREADS)


def test_a_convolution_that_another_operation_reads_keeps_its_output() -> None:
    shape = (2, 133, 126)
    arrays = {"w": array(16, 2, 3, 3), "v": array(3, 16, 1, 1)}
    nodes = [
        node("Conv", ["input", "w"], ["c"], pads=[1] * 4),
        node("MaxPool", ["c"], ["p"], **POOLS[0]),
        node("Conv", ["p", "v"], ["y"]),
        node("Conv", ["c", "v"], ["z"], strides=[2, 2]),
        node("Add", ["y", "z"], ["output"]),
    ]
    compare(model_of(nodes, arrays, shape), shape, threads=THREADS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [4, 5, 6, 7, 8, 9])
def test_sparse_layers_of_narrow_planes_equal_onnxruntimes(
    width: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for height, stride, kernel in itertools.product((1, 6, 7, 45), (1, 2), (3, 5)):
        shape = (70, stride * height, stride * width)
        edges = [kernel // 2] * 4
        arrays = {
            "w": array(37, 70, kernel, kernel, density=0.1),
            "b": array(37),
            "v": array(37, 37, 3, 3, density=0.2),
        }
        nodes = [
            node("Conv", ["input", "w", "b"], ["c"], pads=edges, strides=[stride] * 2),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "v"], ["d"], pads=[1] * 4),
            node("Add", ["d", "r"], ["output"]),
        ]
        compare(model_of(nodes, arrays, shape), shape, threads=THREADS)
