"""Lowering of convolutions and pools over depth, height and width, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.native.lowering import Lowering
from export.native.program import Kind, Operation, Shape
from export.native.rules.window import convolve
from export.passes.graph import attributes

__all__ = ["conv", "conv_transpose", "pool", "window_of"]

_MOST_SLICES = 256  # of a volume that a convolution makes: each is an operation
Sizes = Sequence[int]


@dataclass(frozen=True)
class _Window:
    """Sizes along depth, height and width."""

    kernel: Sizes
    stride: Sizes
    before: Sizes  # padding
    behind: Sizes
    dilation: Sizes

    @property
    def flat(self) -> dict[str, Any]:
        """The window of one slice."""
        fields = {"kernel": self.kernel, "stride": self.stride, "pad": self.before,
                  "dilation": self.dilation}  # fmt: skip
        return {key: (int(v[1]), int(v[2])) for key, v in fields.items()}


def window_of(low: Lowering, node: onnx.NodeProto, kernel: Sizes) -> _Window:
    """The window of a node of volumes, whatever it computes."""
    a = attributes(node)
    if a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise low.refused(node, "uses auto_pad")
    if low.full(node.input[0])[0] != 1:
        raise low.refused(node, "runs on volumes that a reshape has put into the batch")
    ones, pads = [1, 1, 1], list(a.get("pads", [0] * 6))
    return _Window(
        kernel,
        list(a.get("strides", ones)),
        pads[:3],
        pads[3:],
        list(a.get("dilations", ones)),
    )


def conv(low: Lowering, node: onnx.NodeProto, weight: NDArray[Any]) -> None:
    """A convolution of volumes: each slice of the output from those that it reads."""
    _, channels, *sizes = low.full(node.input[0])
    window = window_of(low, node, weight.shape[2:])
    source = low.view(node, node.input[0], Shape(channels * sizes[0], *sizes[1:]))
    _convolve(low, node, source, channels, weight, window)


def conv_transpose(low: Lowering, node: onnx.NodeProto, weight: NDArray[Any]) -> None:
    """A convolution with the turned kernel over a volume that zeros keep apart."""
    _, channels, *sizes = low.full(node.input[0])
    wanted = low.full(node.output[0])[2:]
    window = window_of(low, node, weight.shape[2:])
    groups, per = int(attributes(node).get("group", 1)), weight.shape[1]
    kernel = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = kernel[..., ::-1, ::-1, ::-1].reshape(groups * per, -1, *window.kernel)
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilation, strict=True)]
    before = [r - p for r, p in zip(reach, window.before, strict=True)]
    if min(before) < 0:
        raise low.refused(node, "has more padding than its kernel reaches")
    apart = [n + r for n, r in zip(wanted, reach, strict=True)]
    source = low.view(node, node.input[0], Shape(channels * sizes[0], *sizes[1:]))
    spread = low.anonymous(Shape(channels * sizes[0], *apart[1:]))
    strides, pads = [int(n) for n in window.stride], [int(n) for n in before]
    flat = replace(
        Operation(Kind.SPREAD, source, spread),
        stride=(strides[1], strides[2]),
        pad=(pads[1], pads[2]),
    )
    low.emit(flat)
    index = _deep(low, node, spread, channels, sizes[0], apart, strides[0], pads[0])
    ones = [1, 1, 1]
    plain = _Window(window.kernel, ones, [0] * 3, [0] * 3, window.dilation)
    _convolve(low, node, index, channels, np.ascontiguousarray(turned), plain)


def _deep(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    channels: int,
    depth: int,
    wanted: Sizes,
    stride: int,
    before: int,
) -> int:
    """Slices at multiples of the stride, zeros elsewhere: (channels * depth, h, w)."""
    slice_ = prod(wanted[1:])
    seen = low.fitting(Shape(channels, depth, slice_), node.output[0])
    source = low.reshaped(node, index, seen)
    deep = low.anonymous(Shape(channels, wanted[0], slice_))
    low.emit(Operation(Kind.SPREAD, source, deep, stride=(stride, 1), pad=(before, 0)))
    return low.reshaped(node, deep, Shape(channels * wanted[0], *wanted[1:]))


def _convolve(
    low: Lowering,
    node: onnx.NodeProto,
    index: int,
    channels: int,
    weight: NDArray[Any],
    window: _Window,
) -> None:
    """A volume (channels * depth, height, width) to the node's output."""
    rows, (deep, *plane) = len(weight), low.full(node.output[0])[2:]
    if deep > _MOST_SLICES:
        raise low.refused(
            node, f"makes {deep:,} slices: up to {_MOST_SLICES} are supported"
        )
    have = low.shapes[index]
    depth = have.channels // channels
    if window.before[0] or window.behind[0]:
        wanted = (depth + window.before[0] + window.behind[0], have.height, have.width)
        index = _deep(low, node, index, channels, depth, wanted, 1, window.before[0])
        depth = wanted[0]
    # Slice by slice, each with all its channels.
    slices = _turned(low, index, channels, low.shapes[index])
    count, dilation = int(window.kernel[0]), int(window.dilation[0])
    own = Shape(count * channels, have.height, have.width)
    flat = weight.reshape(rows, -1, *weight.shape[3:])
    groups = int(attributes(node).get("group", 1))
    out = low.anonymous(Shape(deep * rows, *plane))
    for place in range(deep):
        first = place * int(window.stride[0])
        if dilation == 1:  # channels of one place beside each other, slice by slice
            part = low.anonymous(own)
            at = first * channels
            low.emit(Operation(Kind.TAKE, slices, part, groups=count, extra=at))
        else:
            joined = low.anonymous(own)
            for tap in range(count):
                one = low.anonymous(Shape(channels, have.height, have.width))
                at = (first + tap * dilation) * channels
                low.emit(Operation(Kind.TAKE, slices, one, extra=at))
                low.emit(Operation(Kind.PLACE, one, joined, extra=tap * channels))
            part = _turned(low, joined, count, own)
        made = convolve(low, node, part, Shape(rows, *plane), flat, window.flat, groups)
        low.emit(Operation(Kind.PLACE, made, out, extra=place * rows))
    low.alias(node.output[0], _turned(low, out, deep, low.shapes[out]))


def _turned(low: Lowering, index: int, first: int, shape: Shape) -> int:
    """Channels (first, rest) as (rest, first)."""
    if first in {1, shape.channels}:
        return index
    out = low.anonymous(shape)
    return low.emit(Operation(Kind.TAKE, index, out, groups=first))


def pool(low: Lowering, node: onnx.NodeProto, kind: Kind, extra: int) -> None:
    """Over height and width of each slice, then over depth."""
    window = window_of(low, node, attributes(node)["kernel_shape"])
    _, channels, *sizes = low.full(node.input[0])
    deep, *plane = low.full(node.output[0])[2:]
    index = low.view(node, node.input[0], Shape(channels * sizes[0], *sizes[1:]))
    flat = low.anonymous(Shape(channels * sizes[0], *plane))
    low.emit(Operation(kind, index, flat, extra=extra, **window.flat))
    seen = Shape(channels, sizes[0], prod(plane))
    along = low.reshaped(node, flat, low.fitting(seen, node.output[0]))
    out = low.new(node.output[0], Shape(channels, deep, prod(plane)))
    low.emit(
        Operation(
            kind,
            along,
            out,
            extra=extra,
            kernel=(int(window.kernel[0]), 1),
            stride=(int(window.stride[0]), 1),
            pad=(int(window.before[0]), 0),
            dilation=(int(window.dilation[0]), 1),
        )
    )
