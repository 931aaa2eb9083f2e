"""Lowering of layers: convolutions, linear layers, pools and norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering, shape_of
from export.native.program import (
    Kind,
    Operation,
    Shape,
)
from export.native.rules import volumes
from export.native.rules.window import VOLUME, convolve, window_in
from export.passes.graph import attributes

__all__ = ["RULES"]

Layer: TypeAlias = Callable[
    [int, Shape], int
]  # of one image: its buffer, what it makes

_MOST_IMAGES = 256  # each is an operation of its own


def _images(low: Lowering, node: onnx.NodeProto, layer: Layer) -> None:
    """A layer of one image, or of each that a reshape has put into the batch."""
    name, made = node.input[0], node.output[0]
    many = low.full(name)[0]
    taken, given = (low.fitting(shape_of(low.full(v)[1:]), v) for v in (name, made))
    if many == 1:
        low.alias(made, layer(low.view(node, name, taken), given))
        return
    if many > _MOST_IMAGES:
        raise low.refused(
            node,
            f"runs on {many:,} images that a reshape has put into the batch: up to "
            f"{_MOST_IMAGES} are supported",
        )
    source = low.view(node, name, replace(taken, channels=many * taken.channels))
    out = low.new(made, replace(given, channels=many * given.channels))
    for image in range(many):
        at, part = image * taken.channels, low.anonymous(taken)
        low.emit(Operation(Kind.TAKE, source, part, extra=at))
        at = image * given.channels
        low.emit(Operation(Kind.PLACE, layer(part, given), out, extra=at))


def _kernel(
    low: Lowering, node: onnx.NodeProto
) -> tuple[NDArray[Any], dict[str, Any], int]:
    """A convolution's weight, window and groups."""
    weight = low.constant(node, 1)
    if weight is None:
        raise low.refused(node, "has no weight")
    if "kernel_shape" not in attributes(node):
        node.attribute.append(
            onnx.helper.make_attribute("kernel_shape", list(weight.shape[2:]))
        )
    return weight, window_in(low, node), int(attributes(node).get("group", 1))


def _volume(low: Lowering, node: onnx.NodeProto) -> NDArray[Any] | None:
    """The weight of a layer of volumes; None where it has images or sequences."""
    if len(low.full(node.input[0])) != VOLUME:
        return None
    weight = low.constant(node, 1)
    if weight is None:
        raise low.refused(node, "has no weight")
    return weight


def _conv(low: Lowering, node: onnx.NodeProto) -> None:
    deep = _volume(low, node)
    if deep is not None:
        volumes.conv(low, node, deep)
        return
    weight, window, groups = _kernel(low, node)
    _images(
        low, node, lambda x, out: convolve(low, node, x, out, weight, window, groups)
    )


def _conv_transpose(low: Lowering, node: onnx.NodeProto) -> None:
    """A convolution with the turned kernel over pixels that zeros keep apart."""
    deep = _volume(low, node)
    if deep is not None:
        volumes.conv_transpose(low, node, deep)
        return
    weight, window, groups = _kernel(low, node)
    inputs, per = weight.shape[:2]
    kernel = weight.reshape(groups, inputs // groups, per, *window["kernel"])
    turned = kernel.transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    turned = turned.reshape(groups * per, inputs // groups, *window["kernel"])
    reach = [
        (k - 1) * d for k, d in zip(window["kernel"], window["dilation"], strict=True)
    ]
    before = [r - p for r, p in zip(reach, window["pad"], strict=True)]
    if min(before) < 0:
        raise low.refused(node, "has more padding than its kernel reaches")
    stride, pad = window["stride"], (before[0], before[1])
    plain = {**window, "stride": (1, 1), "pad": (0, 0)}

    def layer(source: int, out: Shape) -> int:
        have = low.shapes[source].channels
        apart = low.anonymous(Shape(have, out.height + reach[0], out.width + reach[1]))
        low.emit(Operation(Kind.SPREAD, source, apart, stride=stride, pad=pad))
        return convolve(low, node, apart, out, turned, plain, groups)

    _images(low, node, layer)


def _linear_map(
    low: Lowering,
    node: onnx.NodeProto,
    matrix: NDArray[Any],
    bias: NDArray[Any] | None,
    name: str,
) -> None:
    """A matrix (out, in) times the last axis of every row of a node's first input."""
    full, made = low.full(node.input[0]), node.output[0]
    index = low.weight(name, matrix, bias, made)
    made, _ = low.joined.biases.get(made, (made, ""))
    rows = prod(full[:-1])
    if rows == 1:
        source = low.buffer(node, node.input[0])  # as it is: columns count pixels
        out = low.new(made, Shape(len(matrix)))
        low.emit(Operation(Kind.LINEAR, source, out, weight=index))
        return
    # As a convolution of one pixel over the rows: its sparse kernels take many at once.
    source = low.view(node, node.input[0], Shape(rows, 1, full[-1]))
    turned = low.transposed(source, (2, 1, 0))
    many = low.anonymous(Shape(len(matrix), 1, rows))
    out = low.emit(Operation(Kind.CONV, turned, many, weight=index))
    low.alias(made, low.transposed(out, (2, 1, 0)))


def _gemm(low: Lowering, node: onnx.NodeProto) -> None:
    a = attributes(node)
    plain = a.get("alpha", 1.0) == 1.0 and a.get("beta", 1.0) == 1.0
    weight = low.constant(node, 1)
    if not plain or a.get("transA", 0) or weight is None:
        raise low.refused(node, "is not a plain linear layer")
    matrix = weight if a.get("transB", 0) else weight.T
    _linear_map(low, node, matrix, low.constant(node, 2), node.input[1])


def _matmul(low: Lowering, node: onnx.NodeProto) -> None:
    first, second = node.input[:2]
    if second in low.constants and low.constants[second].ndim == 2:
        _, bias = low.joined.biases.get(node.output[0], ("", ""))
        matrix = low.constants[second].T
        _linear_map(low, node, matrix, low.constants.get(bias), second)
        return
    a, b = low.full(first), low.full(second)
    if len(a) < 2 or len(b) < 2 or prod(a[:-2]) != prod(b[:-2]):
        raise low.refused(node, "multiplies different numbers of matrices")
    many = prod(a[:-2])
    left = low.view(node, first, Shape(many, a[-2], a[-1]))
    right = low.view(node, second, Shape(many, b[-2], b[-1]))
    out = low.new(node.output[0], Shape(many, a[-2], b[-1]))
    low.emit(Operation(Kind.MATMUL, left, out, right))


def _batch_norm(low: Lowering, node: onnx.NodeProto) -> None:
    parts = [low.constant(node, i) for i in range(1, 5)]
    scale, shift, mean, var = (np.asarray(p, np.float64) for p in parts)
    factor = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    matrix, bias = factor.reshape(-1, 1), shift - mean * factor
    full = low.full(node.input[0])
    rows, channels, pixels = full[0], full[1], prod(full[2:])
    kind, seen = Kind.AFFINE, low.shape(node.input[0])
    if rows > 1 and pixels == 1:  # rows that a reshape has put into the batch
        kind, seen = Kind.COLUMN_AFFINE, Shape(rows, 1, channels)
    elif seen.channels != rows * channels:
        seen = Shape(rows * channels, 1, pixels)
    if kind is Kind.AFFINE:
        matrix, bias = np.tile(matrix, (rows, 1)), np.tile(bias, rows)
    source = low.view(node, node.input[0], seen)
    weight = low.weight(node.input[1], matrix, bias)
    low.emit(Operation(kind, source, low.new(node.output[0], seen), weight=weight))


def _layer_norm(low: Lowering, node: onnx.NodeProto) -> None:
    full, axis = low.full(node.input[0]), low.axis(node, -1)
    last = prod(full[axis:])
    normal = _normalised(low, node, Shape(prod(full[:axis]), 1, last))
    scale, shift = _given(low, node, 1), low.constant(node, 2)
    weight = low.weight(node.output[0], scale.reshape(last, 1), shift)
    out = low.new(node.output[0], low.shapes[normal])
    low.emit(Operation(Kind.COLUMN_AFFINE, normal, out, weight=weight))


def _instance_norm(low: Lowering, node: onnx.NodeProto) -> None:
    full = low.full(node.input[0])
    rows = full[0] * full[1]
    normal = _normalised(low, node, Shape(rows, 1, prod(full[2:])))
    scale, shift = (np.tile(_given(low, node, i), full[0]) for i in (1, 2))
    weight = low.weight(node.output[0], scale.reshape(rows, 1), shift)
    out = low.new(node.output[0], low.shapes[normal])
    low.emit(Operation(Kind.AFFINE, normal, out, weight=weight))


def _given(low: Lowering, node: onnx.NodeProto, position: int) -> NDArray[Any]:
    found = low.constant(node, position)
    assert found is not None  # noqa: S101 - ONNX asks for it
    return found


def _normalised(low: Lowering, node: onnx.NodeProto, rows: Shape) -> int:
    source = low.rows(node, node.input[0], rows)
    epsilon = float(attributes(node).get("epsilon", 1e-5))
    out = low.anonymous(low.shapes[source])
    return low.emit(Operation(Kind.NORMALIZE, source, out, low=epsilon))


RULES = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
}
