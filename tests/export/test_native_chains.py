"""Blocks of mobile networks run channel by channel and give what onnxruntime gives."""

import itertools

import numpy as np
import onnx
import pytest
from native_graphs import array, compare, model_of, node

from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.arena import place_buffers
from export.native.fuse import fuse
from export.native.lower import lower
from export.native.program import Kind, Program

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
ISAS = ["v4", "v3", "base"] if this_machine() == "x86_64" else ["base"]


def equal(model: onnx.ModelProto, shape: tuple[int, ...]) -> Program:
    """Outputs are onnxruntime's, the same bits for 1, 2 and 4 threads."""
    return compare(model, shape, threads=(1, 2, 4))


SIZES = [(3, 2), (5, 9), (17, 16), (20, 33), (31, 47), (19, 64), (40, 65)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("kernel", "pads"),
    [(3, [1, 1, 1, 1]), (3, [0, 0, 1, 1]), (3, [1, 0, 0, 1]), (3, [2, 2, 2, 2]),
     (5, [2, 2, 2, 2]), (5, [1, 1, 2, 2]), (5, [2, 1, 1, 4]), (5, [0, 0, 4, 4])],
)  # fmt: skip
def test_strided_depthwise_layers_equal_onnxruntimes(
    kernel: int, pads: list[int], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for size, residual in itertools.product(SIZES, (False, True)):
        shape = (5, *size)
        arrays = {"w": array(10, 1, kernel, kernel), "b": array(10)}
        nodes = [node("Conv", ["input", "w", "b"], ["c"], group=5, pads=pads,
                      strides=[2, 2])]  # fmt: skip
        if residual:
            arrays["v"] = array(10, 5, 1, 1)
            nodes.insert(0, node("Conv", ["input", "v"], ["r"], strides=[2, 2]))
            if sum(pads[::2]) != kernel - 1 or sum(pads[1::2]) != kernel - 1:
                continue
            nodes.append(node("Add", ["c", "r"], ["a"]))
        nodes.append(node("Clip", ["a" if residual else "c", "low"], ["output"]))
        arrays["low"] = np.array(-0.5, np.float32)
        equal(model_of(nodes, arrays, shape), shape)


BLOCKS = {
    "as MobileNetV2": ("Relu", "Relu", False, False),
    "as EfficientNet": ("silu", "silu", True, False),
    "as MobileNetV3": ("HardSwish", "HardSwish", True, False),
    "without a wide layer": (None, "silu", True, False),
    "its input is read again": ("silu", "Tanh", False, True),
    "ends in an average": ("Sigmoid", "Sigmoid", True, False),
}


def block(
    first: str | None, second: str, squeeze: bool, again: bool, stride: int, kernel: int
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A wide layer of one pixel, a depth-wise one, their functions, squeeze-excite."""
    count = itertools.count()
    nodes: list[onnx.NodeProto] = [node("Tanh", ["input"], ["x"])]
    arrays = {
        "narrow": array(4, 24, 1, 1, density=0.4),
        "filter": array(24, 1, kernel, kernel),
    }

    def function(name: str, value: str) -> str:
        out = f"v{next(count)}"
        if name == "silu":
            nodes.append(node("Sigmoid", [value], [f"{out}s"]))
            nodes.append(node("Mul", [value, f"{out}s"], [out]))
        else:
            nodes.append(node(name, [value], [out]))
        return out

    value = "x"
    if first is None:
        arrays["wide"] = array(24, 6, 3, 3)
        nodes.append(node("Conv", ["x", "wide"], ["w"], pads=[1] * 4))
        value = function("silu", "w")
    else:
        arrays |= {"wide": array(24, 6, 1, 1, density=0.3), "bias": array(24)}
        nodes.append(node("Conv", ["x", "wide", "bias"], ["w"]))
        value = function(first, "w")
    windows = {"pads": [kernel // 2] * 4, "strides": [stride] * 2}
    nodes.append(node("Conv", [value, "filter"], ["d"], group=24, **windows))
    value = function(second, "d")
    if squeeze:
        nodes.append(node("GlobalAveragePool", [value], ["m"]))
        nodes.append(node("Sigmoid", ["m"], ["g"]))
        nodes.append(node("Mul", [value, "g"], ["s"]))
        value = "s"
    nodes.append(node("Conv", [value, "narrow"], ["y"]))
    if again:
        arrays["other"] = array(4, 6, 1, 1)
        nodes.append(node("Conv", ["x", "other"], ["o"], strides=[stride] * 2))
        nodes.append(node("Add", ["y", "o"], ["output"]))
    else:
        nodes.append(node("Identity" if squeeze else "Relu", ["y"], ["output"]))
    return nodes, arrays


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_mobile_networks_equal_onnxruntimes(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for size, stride, kernel in itertools.product(
        [(21, 23), (33, 48), (6, 7)], (1, 2), (3, 5, 7)
    ):
        nodes, arrays = block(*BLOCKS[name], stride, kernel)
        equal(model_of(nodes, arrays, (6, *size)), (6, *size))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pads", [[0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 3, 1]])
def test_a_wide_layer_with_zeros_behind_its_input_equals_onnxruntimes(
    pads: list[int], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for size, function in itertools.product([(20, 33), (9, 8)], ("Relu", "Sigmoid")):
        shape = (5, *size)
        arrays = {
            "wide": array(12, 5, 1, 1, density=0.4),
            "bias": array(12),
            "filter": array(12, 1, 3, 3),
        }
        nodes = [
            node("Conv", ["input", "wide", "bias"], ["w"], pads=pads),
            node(function, ["w"], ["f"]),
            node("Conv", ["f", "filter"], ["output"], group=12, pads=[1] * 4),
        ]
        equal(model_of(nodes, arrays, shape), shape)


def test_a_blocks_input_lives_as_long_as_the_block() -> None:
    nodes, arrays = block("silu", "silu", True, False, 2, 3)
    program = fuse(lower(model_of(nodes, arrays, (6, 40, 40))))
    offsets, _ = place_buffers(program)
    wide = next(o for o in program.operations if o.weight >= 0)
    filtered = next(o for o in program.operations if o.groups > 1)
    last = next(o for o in program.operations if o.source == filtered.out)
    for buffer in (filtered.out, last.out):
        begin, end = (offsets[wide.source], offsets[buffer])
        reach = program.shapes[wide.source].floats, program.shapes[buffer].floats
        assert begin + reach[0] <= end or end + reach[1] <= begin


def joined(**changes: object) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Two layers' channels beside each other; `changes` say what is unusual."""
    arrays = {
        "a": array(8, 5, 1, 1),
        "b": array(24, 5, 3, 3, density=0.3),
        "last": array(6, 32, 1, 1, density=0.4),
        "more": array(32, 32, 3, 3),
    }
    nodes = [
        node("Conv", ["input", "a"], ["p"]),
        node("Conv", ["input", "b"], ["q"], pads=[1] * 4),
        node("Concat", ["p", "q"], ["c"], axis=1),
        node("Conv", ["c", "last"], ["output"]),
    ]
    if changes.get("read again"):
        arrays["again"] = array(6, 8, 1, 1)
        nodes[-1:] = [
            node("Conv", ["c", "last"], ["y"]),
            node("Conv", ["p", "again"], ["z"]),
            node("Add", ["y", "z"], ["output"]),
        ]
    if changes.get("is the output"):
        nodes[-2:] = [node("Concat", ["p", "q"], ["output"], axis=1)]
    if changes.get("grows"):
        arrays["last"] = array(6, 64, 1, 1, density=0.4)
        nodes[-1:] = [
            node("Conv", ["c", "more"], ["m"], pads=[1] * 4),
            node("Concat", ["m", "c"], ["d"], axis=1),
            node("Conv", ["d", "last"], ["output"]),
        ]
    if changes.get("a filter's"):
        arrays["b"] = array(8, 1, 5, 5)
        nodes[1] = node("Conv", ["p", "b"], ["q"], pads=[2] * 4, group=8)
        arrays["last"] = array(6, 16, 1, 1)
    return nodes, arrays


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "change", ["none", "read again", "is the output", "grows", "a filter's"]
)
def test_layers_that_write_into_a_concatenation_equal_onnxruntimes(
    change: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for size in ((3, 5), (19, 23), (32, 48)):
        nodes, arrays = joined(**{change: True})
        program = equal(model_of(nodes, arrays, (5, *size)), (5, *size))
        kinds = [o.kind for o in program.operations]
        assert Kind.PLACE in kinds
        assert Kind.RESHAPE not in kinds
