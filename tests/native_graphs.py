"""Small graphs for the native runtime, compared with onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.infer import NativeModel
from export.native.fileformat import write
from export.native.fuse import fuse
from export.native.lower import lower
from export.native.program import Program
from export.native.views import join_moves
from export.runtime import open_session, predict

RNG = np.random.default_rng(7)
node = helper.make_node


def array(*shape: int, density: float = 1.0) -> np.ndarray:
    """Random values, of which a part is not 0."""
    values = RNG.standard_normal(shape).astype(np.float32)
    return np.where(RNG.random(shape) < density, values, np.float32(0))


def ints(*values: int) -> np.ndarray:
    """Shapes, axes and indices as ONNX takes them."""
    return np.array(values, np.int64)


def model_of(
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    shape: tuple[int, ...],
    outputs: tuple[str, ...] = ("output",),
) -> onnx.ModelProto:
    """A graph of these nodes and constants, of one input without its batch axis."""
    constants = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "g", [taken], made, constants)
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def lowered_run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """What the native runtime makes of a batch: (n, values)."""
    program = join_moves(fuse(lower(model)))
    shapes = {"output_shape": list(program.output_shape)}
    native = NativeModel(write(program, shapes))
    return native.run(batch.reshape(-1, *native.input_shape)).reshape(len(batch), -1)


def compare(
    model: onnx.ModelProto,
    shape: tuple[int, ...],
    limit: float = 2e-6,
    threads: tuple[int, ...] = (1,),
) -> Program:
    """Runs a graph in both: outputs differ by at most a part of the largest.

    With any number of `threads` they have the same bits.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    program = join_moves(fuse(lower(copy)))
    shapes = {"input_shape": list(shape), "output_shape": list(program.output_shape)}
    batch = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    wanted = predict(open_session(model.SerializeToString()), batch)
    file = write(program, shapes)
    first, *others = (NativeModel(file, threads=n).run(batch) for n in threads)
    assert first.size == wanted.size
    scale = max(float(np.abs(wanted).max()), 1e-3)
    error = np.abs(first.reshape(wanted.shape) - wanted).max() / scale
    assert error <= limit
    assert all(other.tobytes() == first.tobytes() for other in others)
    return program


def one(
    kind: str,
    shape: tuple[int, ...],
    *arrays: np.ndarray,
    at: int = 0,
    **attributes: Any,
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...]]:
    """A node of one computed input, which is number `at`, and constants."""
    names = [f"c{i}" for i in range(len(arrays))]
    inputs = [*names[:at], "x", *names[at:]]
    given = dict(zip(names, arrays, strict=True))
    first = node("Tanh", ["input"], ["x"])  # so that its buffer is no input
    return [first, node(kind, inputs, ["output"], **attributes)], given, shape
