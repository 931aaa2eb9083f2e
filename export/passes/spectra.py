"""Fourier transforms as products with constant sines and cosines.

onnxruntime transforms lengths that are no power of two by another way, whose error
grows with the length: 4e-5 of the largest value at 200, 1e-4 at 480.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export.passes import PassResult
from export.passes.graph import attribute, read_array, replace_array, static_shape

__all__ = [
    "LARGEST",
    "SPECTRUM",
    "SpectraAsProducts",
    "frame_matrix",
    "spectrum_matrix",
]

Step: TypeAlias = tuple[str, list[str], dict[str, Any]]  # kind, constants, attributes

SPECTRUM = "spectrum_"  # begins the names of constants that are made
LARGEST = 2**22  # numbers of a matrix


def spectrum_matrix(
    size: int, length: int, parts: int, *, inverse: bool, onesided: bool
) -> tuple[NDArray[np.float32], int]:
    """The matrix of a transform, and how many parts each number has that it makes.

    Float32 (frequencies * parts made, places * parts).

    Args:
        size: Places of the input; more than `length` are left out, fewer are zeros.
        length: Of the transform.
        parts: 1 of real numbers, 2 of complex ones.
        inverse: From frequencies back.
        onesided: The first half alone; `inverse`, that of the input, to real numbers.
    """
    if inverse and onesided and parts == 2:
        return _to_real(size, length).astype(np.float32), 1
    kept = length // 2 + 1 if onesided else length
    turns = np.outer(np.arange(kept), np.arange(length)) % length
    angle = 2 * np.pi * turns / length * (1 if inverse else -1)
    real, other = np.cos(angle), np.sin(angle)
    matrix = np.zeros((kept, 2, length, parts))
    matrix[:, 0, :, 0], matrix[:, 1, :, 0] = real, other
    if parts == 2:
        matrix[:, 0, :, 1], matrix[:, 1, :, 1] = -other, real
    matrix = matrix / length if inverse else matrix
    fitted = np.zeros((kept, 2, size, parts))
    fitted[:, :, : min(size, length)] = matrix[:, :, : min(size, length)]
    return fitted.reshape(kept * 2, size * parts).astype(np.float32), 2


def _to_real(size: int, length: int) -> NDArray[np.float64]:
    """Of the way back from the first half of a spectrum.

    The other half is the mirror of the first, so most of it counts twice.
    """
    half = np.arange(size)
    counts = np.where((half == 0) | (2 * half == length), 1.0, 2.0) / length
    counts[half > length // 2] = 0
    angle = 2 * np.pi * (np.outer(np.arange(length), half) % length) / length
    matrix = np.stack([np.cos(angle) * counts, -np.sin(angle) * counts], -1)
    return matrix.reshape(length, size * 2)


def frame_matrix(
    length: int, window: NDArray[np.float32] | None, *, onesided: bool
) -> NDArray[np.float32]:
    """Of one frame of a signal, which a window weighs: (frequencies * 2, length)."""
    matrix, _ = spectrum_matrix(length, length, 1, inverse=False, onesided=onesided)
    if window is None:
        return matrix
    shape = np.zeros(length, np.float32)
    begin = (length - window.size) // 2
    shape[begin : begin + window.size] = window.reshape(-1)
    return matrix * shape


class SpectraAsProducts:
    """Writes transforms out whose length is no power of two."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], str] = {}

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrites the nodes in place."""
        kinds = {"DFT": self._transform, "STFT": self._frames}
        if not any(node.op_type in kinds for node in model.graph.node):
            return PassResult(model, modified=False)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        shapes = {value.name: static_shape(value) for value in values}
        nodes: list[onnx.NodeProto] = []
        count = 0
        for node in model.graph.node:
            write = kinds.get(node.op_type)
            made = None if write is None else write(model, node, shapes)
            nodes += [node] if made is None else made
            count += made is not None
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        return PassResult(model, count > 0, f"{count} transforms are products")

    def _constant(
        self, model: onnx.ModelProto, name: str, array: NDArray[np.generic]
    ) -> str:
        """The name of a constant, which equal ones share."""
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._made:
            self._made[key] = f"{SPECTRUM}{len(self._made)}_{name}"
            replace_array(model, self._made[key], array)
        return self._made[key]

    def _transform(
        self, model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, list[int]]
    ) -> list[onnx.NodeProto] | None:
        shape = shapes.get(node.input[0], [])
        given = [read_array(model, name) for name in node.input[1:2] if name]
        axis = int(attribute(node, "axis", 1)) % max(len(shape), 1)
        if (
            len(shape) < 2
            or 0 in shape[1:]
            or not axis
            or any(a is None for a in given)
        ):
            return None
        length = shape[axis] if not given else int(np.asarray(given[0]).reshape(()))
        if _power_of_two(length) or length * shape[axis] * 4 > LARGEST:
            return None
        matrix, parts = spectrum_matrix(
            *(shape[axis], length, shape[-1]),
            inverse=bool(attribute(node, "inverse", 0)),
            onesided=bool(attribute(node, "onesided", 0)),
        )
        rank, out = len(shape), node.output[0]
        order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
        back = [*range(axis), rank - 2, *range(axis, rank - 2), rank - 1]
        rest = [shape[a] for a in order[1:-2]]
        flat = np.array([0, *rest, matrix.shape[1]])
        apart = np.array([0, *rest, len(matrix) // parts, parts])
        names = [self._constant(model, "sizes", sizes) for sizes in (flat, apart)]
        weight = self._constant(model, "matrix", np.ascontiguousarray(matrix.T))
        steps: list[Step] = [
            ("Transpose", [], {"perm": order}),
            ("Reshape", [names[0]], {}),
            ("MatMul", [weight], {}),
            ("Reshape", [names[1]], {}),
            ("Transpose", [], {"perm": back}),
        ]
        return _chain(node.input[0], out, steps)

    def _frames(
        self, model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, list[int]]
    ) -> list[onnx.NodeProto] | None:
        shape = shapes.get(node.input[0], [])
        step, window, size = (
            read_array(model, name) if name else None
            for name in [*node.input[1:], "", "", ""][:3]
        )
        if (
            len(shape) < 2
            or 0 in shape[1:]
            or step is None
            or shape[2:] not in ([], [1])
        ):
            return None
        length = window.size if size is None and window is not None else 0
        length = length if size is None else int(size.reshape(()))
        if not length or _power_of_two(length) or length**2 * 2 > LARGEST:
            return None
        onesided = bool(attribute(node, "onesided", 1))
        matrix = frame_matrix(length, window, onesided=onesided)
        weight = self._constant(model, "frames", matrix[:, None])
        row = self._constant(model, "sizes", np.array([0, 1, shape[1]]))
        frames = (shape[1] - length) // int(step.reshape(())) + 1
        apart = np.array([0, frames, len(matrix) // 2, 2])
        steps: list[Step] = [
            ("Reshape", [row], {}),
            ("Conv", [weight], {"strides": [int(step.reshape(()))]}),
            ("Transpose", [], {"perm": [0, 2, 1]}),
            ("Reshape", [self._constant(model, "sizes", apart)], {}),
        ]
        return _chain(node.input[0], node.output[0], steps)


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _chain(source: str, out: str, steps: list[Step]) -> list[onnx.NodeProto]:
    """Nodes one after the other, from a value to the name of another."""
    made, name = [], source
    for number, (kind, rest, how) in enumerate(steps):
        after = out if number == len(steps) - 1 else f"{out}_spectrum_{number}"
        made.append(helper.make_node(kind, [name, *rest], [after], **how))
        name = after
    return made
