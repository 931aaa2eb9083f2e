"""Each pass does what it says and leaves the numbers alone."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.errors import ExportError
from export.passes import PassResult, run
from export.passes.canonical_zeros import CanonicalZeros
from export.passes.describe import Describe, description
from export.passes.fold_batch_norm import FoldBatchNorm
from export.passes.fold_constants import FoldConstants
from export.passes.global_pool import GlobalPool
from export.passes.graph import read_array
from export.passes.pack_sparse import PackSparse
from export.passes.remove_dead_channels import RemoveDeadChannels
from export.passes.strip_metadata import StripMetadata
from export.runtime import open_session, predict

RNG = np.random.default_rng(4)
SHAPES = {"conv": (2, 6, 7, 7), "gemm": (2, 12), "gemm-transposed": (2, 12)}


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{n.domain or 'ai.onnx'}:{n.op_type}" for n in model.graph.node)


def model_of(nodes: list, arrays: dict, input_shape: tuple, rank: int = 2):
    constants = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def outputs(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return predict(open_session(model.SerializeToString(), optimise="none"), batch)


def layer_and_norm(kind: str, *, bias: bool) -> onnx.ModelProto:
    norm = {
        name: RNG.uniform(0.5, 2, 8).astype(np.float32)
        for name in ("scale", "shift", "mean", "var")
    }
    inputs = ["input", "w", "b"] if bias else ["input", "w"]
    if kind == "conv":
        weight = RNG.standard_normal((8, 6, 3, 3))
        layer = helper.make_node("Conv", inputs, ["y"], kernel_shape=[3, 3])
    else:
        transposed = kind == "gemm-transposed"
        weight = RNG.standard_normal((8, 12) if transposed else (12, 8))
        layer = helper.make_node("Gemm", inputs, ["y"], transB=int(transposed))
    weight[RNG.random(weight.shape) < 0.7] = 0
    arrays = {"w": weight.astype(np.float32), **norm}
    if bias:
        arrays["b"] = RNG.standard_normal(8).astype(np.float32)
    after = helper.make_node("BatchNormalization", ["y", *norm], ["output"])
    return model_of([layer, after], arrays, SHAPES[kind], 4 if kind == "conv" else 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["conv", "gemm", "gemm-transposed"])
def test_a_batch_norm_is_folded_and_zeros_stay(kind: str, *, bias: bool) -> None:
    model = layer_and_norm(kind, bias=bias)
    batch = RNG.standard_normal(SHAPES[kind]).astype(np.float32)
    before, zeros = outputs(model, batch), read_array(model, "w") == 0
    result = FoldBatchNorm()(model)
    assert result.modified
    assert "ai.onnx:BatchNormalization" not in operators(model)
    np.testing.assert_allclose(outputs(model, batch), before, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(read_array(model, "w") == 0, zeros)


def test_a_batch_norm_that_others_look_behind_is_left() -> None:
    model = layer_and_norm("gemm", bias=True)
    model.graph.node[1].output[0] = "z"
    model.graph.node.append(helper.make_node("Add", ["y", "z"], ["output"]))
    assert not FoldBatchNorm()(model).modified
    assert operators(model)["ai.onnx:BatchNormalization"] == 1


def test_negative_zeros_of_weights_become_positive() -> None:
    weight = np.array([[0.0, -0.0, 1.0], [-0.0, -2.0, 0.0]], np.float32)
    node = helper.make_node("Gemm", ["input", "w"], ["output"], transB=1)
    model = model_of([node], {"w": weight}, (1, 3))
    assert CanonicalZeros()(model).note == "2 negative zeros"
    fixed = read_array(model, "w")
    assert not np.signbit(fixed[fixed == 0]).any()
    np.testing.assert_array_equal(fixed, weight)
    assert not CanonicalZeros()(model).modified


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_pixels_becomes_a_global_pool(keep: int, axes: list[int]) -> None:
    weight = RNG.standard_normal((8, 6, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("ReduceMean", ["z", "axes"], ["output"], keepdims=keep),
    ]
    arrays = {"w": weight, "axes": np.array(axes, np.int64)}
    model = model_of(nodes, arrays, (2, 6, 5, 5), 4 if keep else 2)
    batch = RNG.standard_normal((2, 6, 5, 5)).astype(np.float32)
    before = outputs(model, batch)
    assert GlobalPool()(model).modified
    assert operators(model)["ai.onnx:GlobalAveragePool"] == 1
    assert read_array(model, "axes") is None
    np.testing.assert_allclose(outputs(model, batch), before, rtol=1e-5, atol=1e-6)


def test_a_mean_over_other_axes_is_left() -> None:
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"], keepdims=0)
    model = model_of([node], {"axes": np.array([1], np.int64)}, (2, 6, 5), 2)
    assert not GlobalPool()(model).modified


def test_metadata_with_paths_is_gone_after_stripping() -> None:
    model = layer_and_norm("gemm", bias=False)
    secret = "/home/somebody/model.py"  # noqa: S105 - a path, no password
    entry = {"key": "stack_trace", "value": secret}
    for item in (model, model.graph.node[0], model.graph.initializer[0]):
        item.metadata_props.add(**entry)
        item.doc_string = secret
    assert StripMetadata()(model).modified
    assert secret.encode() not in model.SerializeToString()


def test_facts_are_read_back_and_others_are_not_ours() -> None:
    model = layer_and_norm("gemm", bias=False)
    assert description(model) == {}
    Describe({"task": "digits", "labels": '["a"]'})(model)
    model.metadata_props.add(key="other", value="x")
    found = description(model)
    assert set(found.pop("digest").split()[-1]) == {"0"}  # until the file is written
    assert found == {"task": "digits", "labels": '["a"]'}


def test_packing_nothing_changes_nothing() -> None:
    model = layer_and_norm("gemm", bias=True)
    before = model.SerializeToString(deterministic=True)
    assert not PackSparse()(model).modified
    assert model.SerializeToString(deterministic=True) == before


class Broken:
    def __call__(self, model: onnx.ModelProto) -> PassResult:
        raise KeyError("lost")


def test_a_failing_pass_is_named() -> None:
    with pytest.raises(ExportError, match="pass Broken failed: KeyError"):
        run(onnx.ModelProto(), [Broken()])


@pytest.mark.parametrize("between", ["relu", "pool", "flatten"])
def test_dead_channels_go_and_the_outputs_stay(between: str) -> None:
    first = RNG.standard_normal((6, 3, 3, 3)).astype(np.float32)
    bias = RNG.standard_normal(6).astype(np.float32)
    first[1] = 0  # no weights of its own: dead where its bias gives zero
    first[2] = 0
    bias[1], bias[2] = -0.5, 0.5
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    if between == "flatten":
        second = RNG.standard_normal((4, 6 * 25)).astype(np.float32)
        second[:, 4 * 25 : 5 * 25] = 0  # channel 4 is read by nobody
        nodes += [
            helper.make_node("Flatten", ["z"], ["f"]),
            helper.make_node("Gemm", ["f", "w2"], ["output"], transB=1),
        ]
    else:
        second = RNG.standard_normal((4, 6, 3, 3)).astype(np.float32)
        second[:, 4] = 0
        last = "z"
        if between == "pool":
            window = {"kernel_shape": [2, 2], "strides": [1, 1]}
            nodes.append(helper.make_node("MaxPool", ["z"], ["p"], **window))
            last = "p"
        nodes.append(helper.make_node("Conv", [last, "w2"], ["output"]))
    arrays = {"w1": first, "b1": bias, "w2": second}
    rank = 2 if between == "flatten" else 4
    model = model_of(nodes, arrays, (2, 3, 7, 7), rank)
    batch = RNG.standard_normal((2, 3, 7, 7)).astype(np.float32)
    before = outputs(model, batch)
    removal = RemoveDeadChannels()
    assert removal(model).note == "2 dead channels removed"  # 1 and 4, not 2
    assert read_array(model, "w1").shape[0] == 4
    np.testing.assert_allclose(outputs(model, batch), before, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(removal.kept["w1"][0][1], [0, 2, 3, 5])


def test_what_constants_alone_make_becomes_a_constant() -> None:
    weight = RNG.standard_normal((8, 12)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["w", "two"], ["doubled"]),
        helper.make_node("Transpose", ["doubled"], ["turned"], perm=[1, 0]),
        helper.make_node("RandomNormalLike", ["w"], ["noise"]),
        helper.make_node("ReduceSum", ["noise"], ["lost"], keepdims=0),
        helper.make_node("MatMul", ["input", "turned"], ["output"]),
    ]
    model = model_of(nodes, {"w": weight}, (2, 12))
    batch = RNG.standard_normal((2, 12)).astype(np.float32)
    before = outputs(model, batch)
    assert FoldConstants()(model).note == "3 constant operations folded"
    assert operators(model) == {
        "ai.onnx:MatMul": 1, "ai.onnx:RandomNormalLike": 1, "ai.onnx:ReduceSum": 1,
    }  # fmt: skip
    np.testing.assert_array_equal(read_array(model, "turned"), 2 * weight.T)
    np.testing.assert_array_equal(outputs(model, batch), before)
    assert not FoldConstants()(model).modified


def test_channels_that_a_residual_sum_reads_stay() -> None:
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[0] = 1
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["y"]),
        helper.make_node("Add", ["y", "input"], ["z"]),
        helper.make_node("Conv", ["z", "w2"], ["output"]),
    ]
    model = model_of(nodes, {"w1": weight, "w2": weight}, (1, 3, 4, 4), 4)
    assert not RemoveDeadChannels()(model).modified
