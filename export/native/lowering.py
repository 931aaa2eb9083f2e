"""Values of a graph that is lowered: buffers, seen in the shape that a rule needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_sdk.errors import ExportError
from export.native.joined import find_joined
from export.native.program import Kind, Operation, Program, Shape, Weight
from export.passes.graph import attributes, static_shape

__all__ = ["OTHER_FORMAT", "Lowering", "shape_of"]

OTHER_FORMAT = "Export with --format onnx-sparse, which runs every operation."
_TYPES = onnx.TensorProto
_WHOLE = {_TYPES.INT64, _TYPES.INT32, _TYPES.INT16, _TYPES.INT8,
          _TYPES.UINT8, _TYPES.UINT16, _TYPES.UINT32, _TYPES.UINT64}  # fmt: skip
_MOST_SIDE = 65536  # of a buffer's height and width


def shape_of(dims: Sequence[int]) -> Shape:
    """Buffer of a value: three axes at most, a sequence (C, L) as an image of one row.

    Axes of one are left out, and leading axes joined, where there are more: the values
    stay in their order.

    Example:
        >>> shape_of((8, 20)), shape_of((3, 1, 4, 5, 6))
        (Shape(channels=8, height=1, width=20), Shape(channels=12, height=5, width=6))
    """
    kept = list(dims)
    while len(kept) > 3 and 1 in kept:
        kept.remove(1)
    kept = [prod(kept[:-2]), *kept[-2:]] if len(kept) > 3 else kept
    if len(kept) == 2:
        return Shape(kept[0], 1, kept[1])
    return Shape(*kept) if kept else Shape(1)


class Lowering:
    """A program that grows: rules name the graph's values, and emit operations.

    Attributes:
        constants: Initializers by name.
        joined: Nodes that are lowered together with others.
    """

    def __init__(
        self, model: onnx.ModelProto, layers: Mapping[str, str] | None = None
    ) -> None:
        self.graph = model.graph
        self._layers = layers or {}
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._dims = {value.name: static_shape(value) for value in values}
        self._whole = {v.name for v in values if v.type.tensor_type.elem_type in _WHOLE}
        self.constants = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self.joined = find_joined(model.graph, self.constants)
        self.shapes: list[Shape] = []
        self._operations: list[Operation] = []
        self._weights: list[Weight] = []
        self._buffers: dict[str, int] = {}
        self._reshaped_from: dict[int, int] = {}  # a buffer to the one with its values
        self._views: dict[tuple[int, Shape], int] = {}
        self._turned_from: dict[int, tuple[int, tuple[int, int, int]]] = {}

    def program(self, output: int, output_shape: tuple[int, ...]) -> Program:
        """The program of all operations emitted."""
        return Program(
            tuple(self.shapes),
            tuple(self._operations),
            tuple(self._weights),
            output,
            output_shape,
        )

    # -------------------------------------------------------------------- shapes

    def full(self, name: str) -> tuple[int, ...]:
        """All axes of a value, constants included; a free batch counts as 1.

        Raises:
            ExportError: If another axis is not fixed.
        """
        if name in self.constants:
            return tuple(self.constants[name].shape)
        dims = self._dims.get(name)
        if dims is None or 0 in dims[1:]:
            raise ExportError(
                f"value {name!r} has no fixed shape, which the native runtime needs: "
                f"{dims}",
                remedy=OTHER_FORMAT,
            )
        return (dims[0] or 1, *dims[1:]) if dims else ()

    def dims(self, name: str) -> tuple[int, ...]:
        """Axes of a value without the batch."""
        full = self.full(name)
        return full[1:] if full and full[0] == 1 else full

    def is_whole(self, name: str) -> bool:
        """Tell whole numbers, whose quotients are whole, from floats."""
        return name in self._whole

    def shape(self, name: str) -> Shape:
        """Buffer's shape of a value as the graph has it.

        Raises:
            ExportError: If a side is larger than the runtime's buffers.
        """
        return self.fitting(shape_of(self.dims(name)), name)

    @staticmethod
    def fitting(shape: Shape, name: str) -> Shape:
        """The shape, whose sides the runtime's buffers hold."""
        if max(shape.height, shape.width) > _MOST_SIDE:
            raise ExportError(
                f"value {name!r} has a side above {_MOST_SIDE}: {shape}",
                remedy=OTHER_FORMAT,
            )
        return shape

    # ------------------------------------------------------------------- buffers

    def new(self, name: str, shape: Shape | None = None) -> int:
        """A buffer for a value that an operation is about to write."""
        found = self.shape(name) if shape is None else self.fitting(shape, name)
        self.shapes.append(found)
        self._buffers[name] = len(self.shapes) - 1
        return self._buffers[name]

    def anonymous(self, shape: Shape) -> int:
        """A buffer for what the graph has no name for."""
        self.shapes.append(self.fitting(shape, "between two layers"))
        return len(self.shapes) - 1

    def alias(self, name: str, index: int) -> None:
        """Gives a buffer's values another name, and perhaps another shape."""
        self._buffers[name] = index

    def computed(self, name: str) -> bool:
        """Tell values in a buffer from constants."""
        return name in self._buffers

    def buffer(self, node: onnx.NodeProto, name: str) -> int:
        """The buffer of a value that a node reads, in whatever shape it has."""
        if name in self._buffers:
            return self._buffers[name]
        array = self.constants.get(name)
        if array is None or array.dtype.kind not in "fiub" or not self.shapes:
            raise self.refused(node, f"reads {name!r}, which is not a computed value")
        return self._constant_buffer(name, array)

    def _constant_buffer(self, name: str, array: NDArray[Any]) -> int:
        """A constant as a value: a layer whose weights are all pruned, and its bias."""
        array = array.astype(np.float32)
        first = self.shapes[0]
        channel = self.anonymous(Shape(1, first.height, first.width))
        self.emit(Operation(Kind.TAKE, 0, channel))
        one = self.emit(Operation(Kind.CROP, channel, self.anonymous(Shape(1))))
        weight = self.weight(name, np.zeros((array.size, 1)), array)
        out = self.new(name, Shape(array.size))
        return self.emit(Operation(Kind.LINEAR, one, out, weight=weight))

    def view(self, node: onnx.NodeProto, name: str, shape: Shape | None = None) -> int:
        """A buffer with a value's numbers in a shape: the graph's own, or another."""
        index = self.buffer(node, name)
        wanted = self.shape(name) if shape is None else self.fitting(shape, name)
        return self.reshaped(node, index, wanted)

    def rows(self, node: onnx.NodeProto, name: str, shape: Shape) -> int:
        """A value as rows of the shape's width, whatever its other axes are."""
        index = self.buffer(node, name)
        return (
            index
            if self.shapes[index].width == shape.width
            else (self.view(node, name, shape))
        )

    def reshaped(self, node: onnx.NodeProto, index: int, wanted: Shape) -> int:
        """The same numbers in another shape; the buffer itself where it has it."""
        index = self._reshaped_from.get(index, index)
        have = self.shapes[index]
        if have == wanted:
            return index
        if (index, wanted) in self._views:
            return self._views[index, wanted]
        if have.channels * have.pixels != wanted.channels * wanted.pixels:
            raise self.refused(node, f"reads {have} as {wanted}")
        kind = Kind.FLATTEN if wanted.pixels == 1 else Kind.RESHAPE
        made = self.emit(Operation(kind, index, self.anonymous(wanted)))
        self._reshaped_from[made] = index
        self._views[index, wanted] = made
        return made

    def transposed(self, index: int, axes: tuple[int, int, int]) -> int:
        """A buffer's values with channels, height and width in another order."""
        if axes == (0, 1, 2):
            return index
        before, turned = self._turned_from.get(index, (index, (0, 1, 2)))
        if tuple(turned[axis] for axis in axes) == (0, 1, 2):
            return before
        have = self.shapes[index]
        sizes = (have.channels, have.height, have.width)
        wanted = Shape(*(sizes[axis] for axis in axes))
        out = self.anonymous(wanted)
        self._turned_from[out] = index, axes
        return self.emit(Operation(Kind.TRANSPOSE, index, out, extra=_AXES.index(axes)))

    def each(self, node: onnx.NodeProto, name: str, kind: Kind, extra: int) -> None:
        """A function of every value, whose order does not count, as the node's output.

        It is applied before a transpose: layers on rows take their inputs as the layer
        before them made its outputs.
        """
        index = self.buffer(node, name)
        before, axes = self._turned_from.get(index, (index, (0, 1, 2)))
        out = self.anonymous(self.shapes[before])
        self.emit(Operation(kind, before, out, extra=extra))
        self.alias(node.output[0], self.transposed(out, axes))

    # ---------------------------------------------------------------- operations

    def emit(self, operation: Operation) -> int:
        """Appends an operation; the buffer that it writes."""
        self._operations.append(operation)
        return operation.out

    def step(self, node: onnx.NodeProto, kind: Kind, **fields: Any) -> None:
        """One operation from a node's first input to its output."""
        source = self.view(node, node.input[0])
        self.emit(Operation(kind, source, self.new(node.output[0]), **fields))

    def weight(
        self, name: str, matrix: NDArray[Any], bias: NDArray[Any] | None, out: str = ""
    ) -> int:
        """A weight's number; the bias is broadcast to its rows."""
        rows = len(matrix)
        given = np.zeros(1) if bias is None else np.asarray(bias).reshape(-1)
        values = np.broadcast_to(given, (rows,)).astype(np.float32)
        flat = np.ascontiguousarray(matrix.reshape(rows, -1), np.float32)
        self._weights.append(Weight(name, flat, values, out, rounds=bool(out)))
        return len(self._weights) - 1

    def constant(self, node: onnx.NodeProto, position: int) -> NDArray[Any] | None:
        """A node's constant input; None where it has none."""
        if position >= len(node.input) or not node.input[position]:
            return None
        array = self.constants.get(node.input[position])
        if array is None:
            raise self.refused(node, f"input {position} is not a constant")
        return array

    def axis(self, node: onnx.NodeProto, default: int, name: str = "") -> int:
        """A node's axis, counted from the front of its first input."""
        rank = len(self.full(name or node.input[0]))
        axis = int(attributes(node).get("axis", default))
        return axis + rank if axis < 0 else axis

    def mixes_examples(self, name: str, axes: Sequence[int]) -> bool:
        """Return whether an operation along these axes takes from other examples.

        The batch is the first axis, but for stacks (`torch.stack(branches)`), where it
        is further back: one example is then an axis of 1 that is none of these.
        """
        full = self.full(name)
        rest = [size for axis, size in enumerate(full) if axis not in set(axes)]
        return full[0] != 1 and 0 in axes and 1 not in rest

    def around(self, name: str, axis: int) -> Shape:
        """A value as (before, axis, behind), which any axis can be seen as."""
        full = self.full(name)
        return Shape(prod(full[:axis]), full[axis], prod(full[axis + 1 :]))

    def refused(self, node: onnx.NodeProto, reason: str) -> ExportError:
        """The error that names a node, its layer, and the format that runs it."""
        layer = self._layers.get(node.output[0], "")
        inside = f" of layer {layer}" if layer else ""
        return ExportError(
            f"operation {node.op_type} (output {node.output[0]!r}){inside} {reason}",
            remedy=OTHER_FORMAT,
        )


_AXES = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
