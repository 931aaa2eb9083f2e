"""Operators of the native runtime equal onnxruntime's, alone and in random graphs."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_graphs import array, compare, ints, model_of, node, one

from edge_sdk.errors import CheckpointError, ExportError
from edge_sdk.infer import NativeModel
from edge_sdk.kernels.build import find_compiler, this_machine
from export.native.fileformat import MOST_USES, write
from export.native.fuse import fuse
from export.native.lower import lower
from export.native.program import (
    Cell,
    ElementFunction,
    Kind,
    Operation,
    Program,
    Shape,
    Weight,
)
from export.native.rules.resize import resize_matrix
from export.runtime import open_session, predict

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
# `make test-native-graphs` sets it to 500.
ISAS = ["v3", "base"] if this_machine() == "x86_64" else ["base"]
GRAPHS = int(os.environ.get("FLASH_EDGE_GRAPHS", "25"))
IMAGE, ROWS = (6, 5, 7), (5, 12)
CASES = {
    "leaky": one("LeakyRelu", IMAGE, alpha=0.2),
    "prelu": one("PRelu", IMAGE, array(6, 1, 1)),
    "prelu of a batch": one("PRelu", IMAGE, array(1, 6, 1, 1)),
    "linear of one row": one("MatMul", (1, 12), array(12, 5)),
    "prelu of one": one("PRelu", ROWS, array(1)),
    "elu": one("Elu", IMAGE),
    "elu of another alpha": one("Elu", IMAGE, alpha=0.5),
    "selu": one("Selu", ROWS),
    "softsign": one("Softsign", IMAGE),
    "logarithm of softmax": one("LogSoftmax", ROWS),
    "softplus": one("Softplus", IMAGE),
    "mish": one("Mish", IMAGE),
    "gelu": one("Gelu", ROWS),
    "gelu by tanh": one("Gelu", ROWS, approximate="tanh"),
    "erf": one("Erf", IMAGE),
    "hard sigmoid": one("HardSigmoid", IMAGE, alpha=1 / 6),
    "negative": one("Neg", IMAGE),
    "exponential": one("Exp", IMAGE),
    "square": one("Pow", IMAGE, np.float32(2)),
    "absolute": one("Abs", ROWS),
    "times a number": one("Mul", IMAGE, np.float32(1.5)),
    "number minus": one("Sub", IMAGE, np.float32(2), at=1),
    "by channel": one("Div", IMAGE, array(6, 1, 1)),
    "by row": one("Mul", ROWS, array(5, 1)),
    "by column": one("Add", ROWS, array(12)),
    "by each": one("Add", ROWS, array(1, 5, 12)),
    "by image column": one("Mul", IMAGE, array(7)),
    "by image row": one("Mul", IMAGE, array(5, 1)),
    "between": one("Mul", IMAGE, array(6, 1, 7)),
    "over the value": one("Div", (3, 4), np.float32(1) + np.abs(array(3, 4)), at=0),
    "number over": one("Div", IMAGE, np.float32(3), at=0),
    "transposed": one("Transpose", ROWS, perm=[0, 2, 1]),
    "channels last": one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "back to front": one("Transpose", IMAGE, perm=[0, 3, 2, 1]),
    "reshaped": one("Reshape", IMAGE, ints(1, 10, 21)),
    "slice of rows": one("Slice", IMAGE, ints(1), ints(4), ints(2)),
    "slice of channels": one("Slice", IMAGE, ints(2), ints(5), ints(1)),
    "every second column": one("Slice", IMAGE, ints(1), ints(99), ints(-1), ints(2)),
    "one token": one("Gather", ROWS, np.array(0, np.int64), axis=1),
    "some tokens": one("Gather", ROWS, ints(0, 2, 4), axis=1),
    "padded": one("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    "padded channels": one("Pad", IMAGE, ints(0, 2, 0, 0, 0, 1, 0, 0)),
    "cropped by padding": one("Pad", IMAGE, ints(0, 0, -1, 0, 0, 0, 0, -2)),
    "softmax of rows": one("Softmax", ROWS),
    "softmax of channels": one("Softmax", IMAGE, axis=1),
    "softmax of height": one("Softmax", IMAGE, axis=2),
    "layer norm": one("LayerNormalization", ROWS, array(12), array(12)),
    "layer norm of all": one("LayerNormalization", ROWS, array(5, 12), axis=1),
    "instance norm": one("InstanceNormalization", IMAGE, array(6), array(6)),
    "mean of rows": one("ReduceMean", ROWS, ints(-1)),
    "mean over tokens": one("ReduceMean", ROWS, ints(1), keepdims=0),
    "largest of pixels": one("ReduceMax", IMAGE, ints(2, 3)),
    "sum of all": one("ReduceSum", IMAGE, ints(1, 2, 3), keepdims=0),
    "smallest channel": one("ReduceMin", IMAGE, ints(1)),
    "global max": one("GlobalMaxPool", IMAGE),
    "linear of tokens": one("MatMul", ROWS, array(12, 9, density=0.3)),
    "linear of pixels": one("MatMul", IMAGE, array(7, 4, density=0.3)),
    "turned convolution": one(
        "ConvTranspose", IMAGE, array(6, 4, 3, 3, density=0.4), array(4),
        strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1],
    ),
    "turned convolution of groups": one(
        "ConvTranspose", IMAGE, array(6, 2, 2, 3), group=3, dilations=[2, 1],
    ),
    "turned convolution of a sequence": one(
        "ConvTranspose", ROWS, array(5, 3, 4), strides=[3]
    ),
    "twice as large": one(
        "Resize", IMAGE, np.zeros(0, np.float32), np.float32([1, 1, 2, 2]),
        mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "linear resize": one(
        "Resize", IMAGE, np.zeros(0, np.float32), np.float32([1, 1, 2, 1.5]),
        mode="linear",
    ),
    "corners": one(
        "Resize", IMAGE, np.zeros(0, np.float32), np.zeros(0, np.float32),
        ints(1, 6, 9, 4), mode="linear", coordinate_transformation_mode="align_corners",
    ),
    "shuffled channels": (
        [
            node("Tanh", ["input"], ["x"]),
            node("Reshape", ["x", "split"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["b", "whole"], ["c"]),
            node("Split", ["c"], ["d", "e"], axis=1, num_outputs=2),
            node("Concat", ["e", "d", "d"], ["output"], axis=1),
        ],
        {"split": ints(1, 2, 3, 5, 7), "whole": ints(1, 6, 5, 7)},
        IMAGE,
    ),
    "squeeze and excite": (
        [
            node("Sigmoid", ["input"], ["s"]),
            node("Mul", ["input", "s"], ["x"]),
            node("GlobalAveragePool", ["x"], ["p"]),
            node("Conv", ["p", "w"], ["c"]),
            node("HardSigmoid", ["c"], ["h"], alpha=1 / 6),
            node("Mul", ["h", "x"], ["m"]),
            node("Relu", ["m"], ["output"]),
        ],
        {"w": array(6, 6, 1, 1)},
        IMAGE,
    ),
    "attention": (
        [
            *(node("MatMul", ["input", w], [f"{w}r"]) for w in "qkv"),
            *(node("Reshape", [f"{w}r", "heads"], [f"{w}h"]) for w in "qkv"),
            node("Transpose", ["qh"], ["qt"], perm=[0, 2, 1, 3]),
            node("Transpose", ["kh"], ["kt"], perm=[0, 2, 3, 1]),
            node("Transpose", ["vh"], ["vt"], perm=[0, 2, 1, 3]),
            node("MatMul", ["qt", "kt"], ["s"]),
            node("Mul", ["s", "scale"], ["sc"]),
            node("Softmax", ["sc"], ["p"]),
            node("MatMul", ["p", "vt"], ["o"]),
            node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
            node("Reshape", ["ot", "tokens"], ["t"]),
            node("Concat", ["cls", "t"], ["output"], axis=1),
        ],
        {
            **{w: array(12, 12, density=0.4) for w in "qkv"},
            "heads": ints(1, 5, 3, 4),
            "tokens": ints(1, 5, 12),
            "scale": np.float32(0.5),
            "cls": array(1, 1, 12),
        },
        ROWS,
    ),
    "batch norm of rows": (
        [
            node("Reshape", ["input", "rows"], ["x"]),
            node("BatchNormalization", ["x", *"sbmv"], ["n"]),
            node("Reshape", ["n", "back"], ["output"]),
        ],
        {
            **{name: array(12) for name in "sbm"},
            "v": np.abs(array(12)) + np.float32(0.5),
            "rows": ints(5, 12),
            "back": ints(1, 5, 12),
        },
        ROWS,
    ),
    "rows of another image": (
        [
            node("Tanh", ["input"], ["x"]),
            node("Slice", ["x", "a", "b", "axis"], ["row"]),
            node("Sub", ["row", "x"], ["y"]),
            node("Concat", ["y", "x"], ["output"], axis=3),
        ],
        {"a": ints(0), "b": ints(1), "axis": ints(1)},
        IMAGE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_equals_onnxruntimes(name: str) -> None:
    nodes, arrays, shape = CASES[name]
    compare(model_of(nodes, arrays, shape), shape)


def recurrent(
    kind: str,
    ways: str = "forward",
    steps: int = 5,
    size: int = 9,
    density: float = 0.4,
    **attributes: Any,
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...]]:
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind] * size
    many = 2 if ways[0] == "b" else 1
    nodes = [
        node("Transpose", ["input"], ["x"], perm=[1, 0, 2]),
        node(kind, ["x", "w", "r", "b", "", "h"], ["y", "last"], hidden_size=size,
             direction=ways, **attributes),
        node("Reshape", ["y", "flat"], ["a"]),
        node("Reshape", ["last", "flat"], ["z"]),
        node("Concat", ["a", "z"], ["output"], axis=1),
    ]  # fmt: skip
    arrays = {
        "w": array(many, gates, 12, density=density),
        "r": array(many, gates, size, density=density),
        "b": array(many, 2 * gates),
        "h": np.zeros((many, 1, size), np.float32),
        "flat": ints(1, -1),
    }
    return nodes, arrays, (steps, 12)


@pytest.mark.parametrize("ways", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_recurrence_equals_onnxruntimes(kind: str, ways: str) -> None:
    reset = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes, arrays, shape = recurrent(kind, ways, 1 if ways[0] == "r" else 6, **reset)
    compare(model_of(nodes, arrays, shape), shape, 1e-5)  # rounding grows by step


@pytest.mark.parametrize("given", ["forward", "reverse", "bidirectional", "computed"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_recurrence_from_a_first_state_equals_onnxruntimes(
    kind: str, given: str
) -> None:
    reset = {"linear_before_reset": 1} if kind == "GRU" else {}
    ways = "forward" if given == "computed" else given
    nodes, arrays, shape = recurrent(kind, ways, size=12, **reset)
    arrays["h"] = array(*arrays["h"].shape)
    if kind == "LSTM":
        nodes[1].input.append("c")
        arrays["c"] = array(*arrays["h"].shape)
    if given == "computed":
        nodes.insert(0, node("ReduceMax", ["input", "steps"], ["h"], keepdims=1))
        arrays["steps"] = ints(1)
        del arrays["h"]
    compare(model_of(nodes, arrays, shape), shape, 1e-5)


def test_an_lstm_with_one_first_state_of_two_is_refused() -> None:
    nodes, arrays, shape = recurrent("LSTM")
    arrays["h"] += 1
    with pytest.raises(ExportError, match="give both"):
        lower(model_of(nodes, arrays, shape))


def test_a_first_state_that_does_not_fit_is_no_file() -> None:
    weights = (Weight("r", array(8, 2), np.zeros(8, np.float32)),)
    shapes = Shape(5, 1, 8), Shape(1, 1, 8), Shape(5, 1, 2)
    operations = (
        Operation(Kind.TAKE, 0, 1),
        Operation(Kind.RECURRENT, 0, 2, 1, weight=0, extra=int(Cell.LSTM)),
    )
    content = write(Program(shapes, operations, weights, 2), {})
    with pytest.raises(CheckpointError, match="first state"):
        NativeModel(content)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_sparse_recurrence_equals_onnxruntimes(kind: str) -> None:
    """At .1 rows are short and uneven, and some have no weight at all."""
    reset = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes, arrays, shape = recurrent(kind, size=70, density=0.1, **reset)
    arrays["r"][:, 3] = 0.0
    compare(model_of(nodes, arrays, shape), shape, 1e-5)


PER_ISA = [
    "leaky", "prelu", "elu", "selu", "softplus", "mish", "gelu", "gelu by tanh", "erf",
    "hard sigmoid", "exponential", "by channel", "by row", "by column", "number over",
    "softmax of rows", "softmax of channels", "logarithm of softmax", "layer norm",
    "attention", "squeeze and excite", "mean of rows", "transposed",
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
def test_each_instruction_set_has_the_operators(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for name in PER_ISA:
        nodes, arrays, shape = CASES[name]
        compare(model_of(nodes, arrays, shape), shape)
    for kind in ("GRU", "LSTM", "RNN"):
        reset = {"linear_before_reset": 1} if kind == "GRU" else {}
        nodes, arrays, shape = recurrent(kind, size=21, density=0.3, **reset)
        compare(model_of(nodes, arrays, shape), shape, 1e-5)  # rounding grows by step


@pytest.mark.parametrize("isa", ["v4", *ISAS])
@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Exp", "Erf", "Softplus", "Mish"])
def test_functions_keep_to_their_limits_far_from_zero(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    shape = (1, 41)
    model = model_of([node(name, ["input"], ["output"])], {}, shape)
    top = 80.0 if name == "Exp" else 1e4
    batch = np.linspace(-top, top, 41, dtype=np.float32).reshape(1, *shape)
    wanted = predict(open_session(model.SerializeToString()), batch)
    program = fuse(lower(model))
    shapes = {"input_shape": list(shape), "output_shape": list(program.output_shape)}
    found = NativeModel(write(program, shapes)).run(batch)
    assert found == pytest.approx(wanted.reshape(found.shape), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("isa", ["v4", *ISAS])
@pytest.mark.parametrize("size", [(5, 3), (9, 17), (7, 70)])
@pytest.mark.parametrize("stride", [1, 2])
def test_wide_depthwise_windows_equal_onnxruntimes(
    stride: int, size: tuple[int, int], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    shape = (3, *size)
    conv = node("Conv", ["x", "w", "b"], ["c"], group=3, pads=[3] * 4,
                strides=[stride] * 2)  # fmt: skip
    nodes = [node("Tanh", ["input"], ["x"]), conv, node("Relu", ["c"], ["output"])]
    model = model_of(nodes, {"w": array(3, 1, 7, 7), "b": array(3)}, shape)
    compare(model, shape)


@pytest.mark.parametrize("isa", ["v4", *ISAS])
@pytest.mark.parametrize("channels", [3, 8, 16, 37])
def test_depthwise_layers_of_small_planes_equal_onnxruntimes(
    channels: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several channels to a vector: tiles of 8, 7, 4 and 1 pixels, padded as asked."""
    monkeypatch.setenv("FLSP_ISA", isa)
    for size, kernel, stride, dilation, pads, residual in (
        ((7, 7), (3, 3), 1, 1, [1, 1, 1, 1], True),
        ((7, 7), (5, 5), 1, 1, [2, 2, 2, 2], False),
        ((14, 14), (3, 3), 2, 1, [1, 1, 1, 1], False),
        ((14, 14), (5, 5), 2, 1, [2, 2, 2, 2], False),
        ((13, 16), (3, 3), 2, 1, [0, 0, 1, 1], False),
        ((5, 8), (3, 3), 1, 2, [2, 2, 2, 2], True),
        ((4, 11), (2, 4), 1, 1, [0, 3, 1, 0], True),
        ((6, 6), (3, 3), 3, 1, [1, 1, 0, 0], False),
        ((2, 3), (7, 7), 1, 1, [3, 3, 3, 3], True),
    ):
        conv = node("Conv", ["input", "w", "b"], ["c"], group=channels, pads=pads,
                    strides=[stride] * 2, dilations=[dilation] * 2)  # fmt: skip
        nodes = [conv, node("Relu", ["c"], ["output"])]
        if residual:
            nodes[1:] = [
                node("Add", ["c", "input"], ["a"]), node("Relu", ["a"], ["output"])
            ]  # fmt: skip
        arrays = {"w": array(channels, 1, *kernel), "b": array(channels)}
        shape = (channels, *size)
        compare(model_of(nodes, arrays, shape), shape)


@pytest.mark.parametrize("isa", ["v4", *ISAS])
@pytest.mark.parametrize("width", [9, 16, 17, 28, 33, 49, 70, 96])
def test_depthwise_rows_of_two_vectors_equal_onnxruntimes(
    width: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLSP_ISA", isa)
    for height, pads in ((9, [1, 1, 1, 1]), (30, [0, 0, 2, 2]), (31, [2, 2, 0, 0])):
        shape = (5, height, width)
        conv = node("Conv", ["input", "w", "b"], ["c"], group=5, pads=pads)
        nodes = [conv, node("Add", ["c", "input"], ["output"])]
        arrays = {"w": array(5, 1, 3, 3), "b": array(5)}
        compare(model_of(nodes, arrays, shape), shape)


# ------------------------------------------------------- steps lowered together

Spelled = tuple[list[onnx.NodeProto], dict[str, np.ndarray], bool]
F = np.float32


def gelu(
    root: tuple[str, float] = ("Div", 2**0.5),
    one: float = 1.0,
    half: float = 0.5,
    order: str = "x half",
    one_first: bool = False,
    more: tuple[onnx.NodeProto, ...] = (),
    found: bool = True,
) -> Spelled:
    """0.5 x (1 + erf(x / sqrt 2)), or something like it, of a value `x`."""
    tail = {
        "x half": [node("Mul", ["x", "a"], ["b"]), node("Mul", ["b", "half"], ["g"])],
        "half x": [node("Mul", ["half", "a"], ["b"]), node("Mul", ["b", "x"], ["g"])],
        "halved": [node("Mul", ["x", "half"], ["b"]), node("Mul", ["b", "a"], ["g"])],
        "twice x": [node("Mul", ["x", "a"], ["b"]), node("Mul", ["b", "x"], ["g"])],
        "another": [node("Mul", ["input", "a"], ["b"]),
                    node("Mul", ["b", "half"], ["g"])],
        "no half": [node("Mul", ["x", "a"], ["g"])],
    }[order]  # fmt: skip
    nodes = [
        node("Tanh", ["input"], ["x"]),
        node(root[0], ["x", "root"], ["s"]),
        node("Erf", ["s"], ["e"]),
        node("Add", ["one", "e"] if one_first else ["e", "one"], ["a"]),
        *tail,
        *(more or (node("Neg", ["g"], ["output"]),)),
    ]
    return nodes, {"root": F(root[1]), "one": F(one), "half": F(half)}, found


def and_again(name: str) -> tuple[onnx.NodeProto, ...]:
    """A second reader of a value inside."""
    return (node("Add", ["g", name], ["output"]),)


GELUS = {
    "as torch writes it": gelu(),
    "times the root": gelu(("Mul", 0.5**0.5)),
    "half first": gelu(order="half x"),
    "half of x": gelu(order="halved"),
    "one first": gelu(one_first=True),
    "x is read again": gelu(more=and_again("x")),
    "the last is read twice": gelu(more=(node("Mul", ["g", "g"], ["output"]),)),
    "another root": gelu(("Div", 1.5), found=False),
    "divided by the inverse": gelu(("Div", 0.5**0.5), found=False),
    "another one": gelu(one=1.25, found=False),
    "another half": gelu(half=0.25, found=False),
    "x twice": gelu(order="twice x", found=False),
    "another x": gelu(order="another", found=False),
    "without the half": gelu(order="no half", found=False),
    "the quotient is read again": gelu(more=and_again("s"), found=False),
    "erf is read again": gelu(more=and_again("e"), found=False),
    "the sum is read again": gelu(more=and_again("a"), found=False),
    "the product is read again": gelu(more=and_again("b"), found=False),
}


def lowered(model: onnx.ModelProto) -> Program:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return fuse(lower(copy))


@pytest.mark.parametrize("name", GELUS)
def test_a_written_out_gelu_is_one_step_where_it_is_one(name: str) -> None:
    nodes, arrays, found = GELUS[name]
    model = model_of(nodes, arrays, ROWS)
    compare(model, ROWS)
    wanted = (Kind.FUNCTION, ElementFunction.GELU)
    gelus = [o for o in lowered(model).operations if (o.kind, o.extra) == wanted]
    assert len(gelus) == found


def test_an_inner_value_of_a_gelu_may_be_an_output() -> None:
    nodes, arrays, _ = gelu()
    for name in ("s", "e", "a", "b", "g"):
        compare(model_of(nodes, arrays, ROWS, ("output", name)), ROWS)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("bias", "readers", "steps"),
    [(12, 1, 0), (1, 1, 1), ((5, 1), 1, 1), ((5, 12), 1, 3), (12, 2, 1)],
)
def test_a_bias_joins_its_matrix_where_it_is_one(
    bias: Any, readers: int, steps: int, first: bool
) -> None:
    shape = bias if isinstance(bias, tuple) else (bias,)
    added = ["b", "m"] if first else ["m", "b"]
    nodes = [
        node("MatMul", ["input", "w"], ["m"]),
        node("Add", added, ["s"]),
        node("Mul", ["s", "m" if readers == 2 else "s"], ["output"]),
    ]
    arrays = {"w": array(12, 12, density=0.3), "b": array(*shape)}
    model = model_of(nodes, arrays, ROWS)
    compare(model, ROWS)
    kinds = [o.kind for o in lowered(model).operations]
    assert len(kinds) == 4 + steps, kinds


def test_several_outputs_are_one_after_the_other() -> None:
    nodes = [
        node("Conv", ["input", "w"], ["a"]),
        node("GlobalAveragePool", ["a"], ["b"]),
        node("Relu", ["a"], ["c"]),
    ]
    model = model_of(nodes, {"w": array(4, 6, 3, 3)}, IMAGE, ("c", "b", "a"))
    compare(model, IMAGE)


SEVERAL = {
    "conv": ("Conv", {"w": array(4, 3, 3, 3, density=0.3), "b": array(4)}, {}),
    "pixel": ("Conv", {"w": array(9, 3, 6, 7, density=0.2), "b": array(9)}, {}),
    "groups": ("Conv", {"w": array(6, 1, 3, 3)}, {"group": 3, "strides": [2, 2]}),
    "transposed": ("ConvTranspose", {"w": array(3, 2, 3, 3)}, {"strides": [2, 2]}),
    "norm": ("BatchNormalization", {
        "s": array(3), "b": array(3), "m": array(3), "v": np.ones(3, np.float32),
    }, {}),
    "instance": ("InstanceNormalization", {"s": array(3), "b": array(3)}, {}),
    "pool": ("MaxPool", {}, {"kernel_shape": [2, 3]}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_layers_run_on_each_image_that_a_reshape_puts_into_the_batch(name: str) -> None:
    op, arrays, attributes = SEVERAL[name]
    nodes = [
        node("Reshape", ["input", "images"], ["x"]),
        node(op, ["x", *arrays], ["y"], **attributes),
        node("Relu", ["y"], ["z"]),
        node("Flatten", ["z"], ["output"], axis=0),
    ]
    shape = (15, 6, 7)
    compare(model_of(nodes, {"images": ints(5, 3, 6, 7), **arrays}, shape), shape)


@pytest.mark.parametrize(
    "axes", [(0, 1, 3, 2, 4), (0, 4, 3, 2, 1), (0, 2, 4, 1, 3), (0, 1, 4, 2, 5, 3, 6)]
)
def test_axes_are_put_into_any_order(axes: tuple[int, ...]) -> None:
    sizes = (1, 2, 3, 4, 5, 6, 2)[: len(axes)]
    nodes = [
        node("Reshape", ["input", "sizes"], ["x"]),
        node("Transpose", ["x"], ["y"], perm=list(axes)),
        node("Flatten", ["y"], ["output"]),
    ]
    values = (int(np.prod(sizes)),)
    compare(model_of(nodes, {"sizes": ints(*sizes)}, values), values)


def test_a_layer_that_runs_several_times_is_stored_once() -> None:
    arrays = {"w": array(64, 3, 3, 3, density=0.3)}
    nodes = [
        node("Reshape", ["input", "images"], ["x"]),
        node("Conv", ["x", "w"], ["y"]),
        node("Flatten", ["y"], ["output"], axis=0),
    ]
    one_image = model_of([node("Conv", ["input", "w"], ["output"])], arrays, (3, 6, 7))
    arrays["images"] = ints(20, 3, 6, 7)
    several = model_of(nodes, arrays, (60, 6, 7))
    sizes = [len(write(lower(model), {})) for model in (several, one_image)]
    assert sizes[0] < 2 * sizes[1] + 20 * 512  # two copies; records of each image
    assert sizes[0] < 20 * 5 * np.count_nonzero(arrays["w"])
    assert MOST_USES < 20
    compare(several, (60, 6, 7))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (one("Det", (4, 3, 3)), "products and sums of its values"),
        (
            (
                [
                    node("Reshape", ["input", "images"], ["x"]),
                    node("Conv", ["x", "w"], ["output"]),
                ],
                {"images": ints(257, 3, 1, 2), "w": array(4, 3, 1, 1)},
                (257, 3, 1, 2),
            ),
            "257 images that a reshape",
        ),
        (recurrent("GRU"), "resets before the recurrent matrix"),
        (recurrent("LSTM", clip=1.0), "is not torch's"),
        (one("HardSwishh", IMAGE), "HardSwish"),
        (one("ArgMax", ROWS, select_last_index=1), "the last of equal values"),
    ],
)
def test_what_is_not_supported_is_named_with_the_nearest_form(
    case: Any, message: str
) -> None:
    nodes, arrays, shape = case
    with pytest.raises(ExportError, match=message) as caught:
        lower(model_of(nodes, arrays, shape))
    assert any(f"operation {n.op_type} (output" in str(caught.value) for n in nodes)


def test_a_linear_resize_keeps_a_ramp() -> None:
    matrix = resize_matrix(5, 9, None, {"mode": b"linear"})
    assert matrix.sum(1) == pytest.approx(np.ones(9))
    assert (np.diff(matrix @ np.arange(5.0)) >= 0).all()


# ----------------------------------------------------------------- random graphs

Step = Callable[[Any, "Graph"], bool]


class Graph:
    """A graph that grows by a node at a time, from an image or rows."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.values = {"input": (1, *shape)}

    def constant(self, values: np.ndarray) -> str:
        name = f"k{len(self.arrays)}"
        self.arrays[name] = values
        return name

    def normal(self, *shape: int) -> str:
        values = self.rng.standard_normal(shape).astype(np.float32)
        kept = np.where(self.rng.random(shape) < 0.5, values, np.float32(0))
        return self.constant(kept)

    def add(self, kind: str, inputs: list[str], shape: Any, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(kind, inputs, [name], **attributes))
        self.values[name] = tuple(int(n) for n in shape)


def step(draw: Any, g: Graph) -> None:  # noqa: C901, PLR0912, PLR0915 - a table
    """One node onto a value that is there already, mostly the last."""
    names = list(g.values)
    x = draw(st.sampled_from([*names[-2:], names[-1], names[0]]))
    shape, rank = g.values[x], len(g.values[x])
    kind = draw(st.sampled_from(
        ["same", "same", "constant", "pair", "transpose", "reshape", "slice", "concat",
         "softmax", "reduce", "matmul", "norm", "conv", "pad", "spread"]))  # fmt: skip
    axis = draw(st.integers(1, rank - 1))
    if kind == "same":
        names = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Neg", "Abs", "HardSwish"]
        g.add(draw(st.sampled_from(names)), [x], shape)
    elif kind == "constant":
        varied = [n if draw(st.booleans()) else 1 for n in shape[1:]]
        order = [x, g.normal(1, *varied)]
        name = draw(st.sampled_from(["Add", "Mul", "Sub"]))
        g.add(name, order[::-1] if draw(st.booleans()) else order, shape)
    elif kind == "pair":
        others = [n for n, s in g.values.items() if s == shape]
        name = draw(st.sampled_from(["Add", "Mul", "Max"]))
        g.add(name, [x, draw(st.sampled_from(others))], shape)
    elif kind == "transpose":
        perm = [0, *draw(st.permutations(range(1, rank)))]
        g.add("Transpose", [x], [shape[p] for p in perm], perm=perm)
    elif kind == "reshape" and rank > 2:
        merged = [*shape[:axis], -1] if axis < rank - 1 else [shape[0], -1, shape[-1]]
        wanted = np.empty(shape, np.bool_).reshape(merged).shape
        g.add("Reshape", [x, g.constant(ints(*merged))], wanted)
    elif kind == "slice" and shape[axis] > 2:
        end, stride = draw(st.integers(2, shape[axis])), draw(st.integers(1, 2))
        bounds = [g.constant(ints(n)) for n in (1, end, axis, stride)]
        count = len(range(1, end, stride))
        g.add("Slice", [x, *bounds], [*shape[:axis], count, *shape[axis + 1 :]])
    elif kind == "concat" and shape[axis] < 20:
        wide = [*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]]
        g.add("Concat", [x, x], wide, axis=axis)
    elif kind == "softmax":
        g.add("Softmax", [x], shape, axis=axis)
    elif kind == "reduce" and rank > 2:
        name = draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax"]))
        kept = [*shape[:axis], 1, *shape[axis + 1 :]]
        g.add(name, [x, g.constant(ints(axis))], kept)
        if draw(st.booleans()):  # and back, by a product that repeats it
            g.add("Mul", [x, list(g.values)[-1]], shape)
    elif kind == "matmul":
        out = draw(st.integers(1, 9))
        g.add("MatMul", [x, g.normal(shape[-1], out)], [*shape[:-1], out])
    elif kind == "norm":
        factors = g.normal(shape[-1]), g.normal(shape[-1])
        g.add("LayerNormalization", [x, *factors], shape, epsilon=0.1)
    elif kind == "conv" and rank == 4:
        out = draw(st.integers(1, 6))
        weight = g.normal(out, shape[1], 3, 3)
        g.add("Conv", [x, weight], [1, out, *shape[2:]], pads=[1, 1, 1, 1])
    elif kind == "pad":
        around = [0] * (2 * rank)
        around[axis], around[rank + axis] = 1, 2
        wide = [*shape[:axis], shape[axis] + 3, *shape[axis + 1 :]]
        g.add("Pad", [x, g.constant(ints(*around))], wide)


@settings(max_examples=GRAPHS, deadline=None)
@given(data=st.data())
def test_a_random_graph_is_right_or_refused_by_name(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 5, 6), (3, 1, 7), (6, 9), (8,)]))
    g = Graph(shape, data.draw(st.integers(0, 2**16)))
    for _ in range(data.draw(st.integers(1, 7))):
        step(data.draw, g)
    last = list(g.values)[-1]
    if last == "input":
        return
    g.nodes.append(node("Identity", [last], ["output"]))
    model = model_of(g.nodes, g.arrays, shape)
    try:
        compare(model, shape, 1e-5)
    except ExportError as error:
        assert str(error).startswith(("operation ", "value ")), error  # noqa: PT017
