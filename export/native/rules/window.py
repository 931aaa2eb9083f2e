"""Windows of convolutions and pools: kernel, stride, padding and dilation of a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape
from export.passes.graph import attributes

__all__ = ["VOLUME", "convolve", "window_in"]

VOLUME = 5  # axes: batch, channels, depth, height, width


def _window_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The window of a node, (height, width) of each; a sequence is an image of one row.

    Raises:
        ValueError: If the native runtime has none such; the message says what it has.
    """
    a = attributes(node)
    if a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("uses auto_pad")
    kernel = list(a["kernel_shape"])
    count = len(kernel)
    pads = list(a.get("pads", [0] * 2 * count))
    fields = {
        "kernel": kernel,
        "stride": list(a.get("strides", [1] * count)),
        "pad": pads[:count],
        "dilation": list(a.get("dilations", [1] * count)),
    }
    if count == 1:  # a sequence is an image of one row
        first = {"kernel": 1, "stride": 1, "pad": 0, "dilation": 1}
        fields = {key: [first[key], *value] for key, value in fields.items()}
    if count > 2:
        raise ValueError("has more than two spatial axes")
    return {key: (int(v[0]), int(v[1])) for key, v in fields.items()}


def window_in(low: Lowering, node: onnx.NodeProto) -> dict[str, Any]:
    """The window of a node.

    Raises:
        ExportError: If the native runtime has none such; names the node.
    """
    try:
        return _window_of(node)
    except ValueError as error:
        raise low.refused(node, str(error)) from error


def _one_pixel(
    weight: NDArray[Any], source: Shape, window: dict[str, Any], groups: int
) -> NDArray[np.float32]:
    """A convolution with one output pixel as a linear layer on all its inputs."""
    kernel = weight.reshape(*weight.shape[:2], *window["kernel"])
    rows, own = kernel.shape[:2]
    matrix = np.zeros((rows, source.channels, source.height, source.width), np.float32)
    for y in range(window["kernel"][0]):
        for x in range(window["kernel"][1]):
            h = y * window["dilation"][0] - window["pad"][0]
            w = x * window["dilation"][1] - window["pad"][1]
            if not (0 <= h < source.height and 0 <= w < source.width):
                continue
            for row in range(rows):
                first = row // (rows // groups) * own
                matrix[row, first : first + own, h, w] = kernel[row, :, y, x]
    return matrix.reshape(rows, -1)


def convolve(
    low: Lowering,
    node: onnx.NodeProto,
    source: int,
    shape: Shape,
    weight: NDArray[Any],
    window: dict[str, Any],
    groups: int,
) -> int:
    """Emits a convolution of images, a linear layer where one pixel comes out."""
    bias, name, made = low.constant(node, 2), node.input[1], node.output[0]
    out = low.anonymous(shape)
    if shape.pixels == 1:
        matrix = _one_pixel(weight, low.shapes[source], window, groups)
        index = low.weight(name, matrix, bias, made)
        return low.emit(Operation(Kind.LINEAR, source, out, weight=index))
    index = low.weight(name, weight, bias, made)
    return low.emit(
        Operation(Kind.CONV, source, out, weight=index, groups=groups, **window)
    )
