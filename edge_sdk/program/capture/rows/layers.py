"""Convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.rows.matrices import multiplied
from edge_sdk.program.capture.rows.normed import by_direction
from edge_sdk.program.capture.rows.rearranged.copies import strided, transposed
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.steps import combined, reshaped

__all__ = ["ROWS", "pair"]

_IMAGE = 3  # axes of one sample's channels, height and width


def pair(value: Any, axes: int, first: int) -> tuple[int, int]:
    """(h, w) of an attribute; of one axis it is the width, and h is `first`."""
    own = [value] * axes if isinstance(value, int) else list(value)
    own = own * axes if len(own) == 1 else own
    return (first, own[0]) if axes == 1 else (own[0], own[1])


def _conv(builder: Builder, call: Node) -> None:
    axes = 1 if "conv1d" in call.target else 2
    stride = pair(call["stride"], axes, 1)
    dilation = pair(call["dilation"], axes, 1)
    padding = _padding(builder, call, axes, dilation)
    source, layout = builder.value(call, "input")
    if layout.axis != 0 or layout.outer != 1:
        raise builder.refused(call, "the batch is not the first axis of its input")
    weight = call["weight"]
    if weight not in builder.parameters and weight not in builder.constants:
        _computed_conv(builder, call, builder.tensor(call, "input"),
                       (stride, padding, dilation))  # fmt: skip
        return
    name = "conv"
    if layout.extra:  # several images of a sample
        if axes == 1:
            raise builder.refused(call, "several signals of a sample in one batch")
        name = "conv_frames"
    builder.emit(
        call,
        name,
        (source,),
        layout=layout,
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(*stride, *padding, *dilation, call["groups"]),
    )


def _computed_conv(
    builder: Builder, call: Node, source: int, geometry: Sequence[tuple[int, int]]
) -> None:
    """With a weight that is made of parameters: a product with what each tap sees."""
    weight, own = builder.value(call, "weight")
    if own.axis is not None:
        raise builder.refused(call, "its weight differs by sample")
    stride, padding, dilation = geometry
    kernel = pair(list(builder.tensors[weight].shape[2:]), len(call.shape) - 2, 1)
    out = (1, *call.shape[2:])[-2:]
    channels, *image = builder.tensors[source].shape
    image = [1, *image][-2:]
    source = reshaped(builder, call, source, (channels, *image))
    if any(padding):
        shape = (channels, *(n + 2 * p for n, p in zip(image, padding, strict=True)))
        ints = (0, *padding, 0, *padding, _IMAGE, 0)
        source = builder.step(call, "pad", (source,), shape, ints=ints, reals=(0.0,))
    taps = []
    for tap in product(*map(range, kernel)):
        part = source
        for axis in (0, 1):
            part = strided(
                *(builder, call, part, axis + 1, tap[axis] * dilation[axis]),
                count=out[axis],
                step=stride[axis],
            )
        taps.append(reshaped(builder, call, part, (channels, 1, out[0] * out[1])))
    seen = joined(builder, call, taps, 1)
    groups, rows = call["groups"], call.shape[1]
    depth, places = channels // groups * len(taps), out[0] * out[1]
    seen = reshaped(builder, call, seen, (groups, depth, places))
    weight = reshaped(builder, call, weight, (groups, rows // groups, depth))
    found = multiplied(builder, call, weight, seen)
    if call.get("bias") is not None:
        found = reshaped(builder, call, found, (rows, places))
        bias = reshaped(builder, call, builder.value(call, "bias")[0], (rows, 1))
        found = combined(builder, call, "add", found, bias)
    builder.put(call, reshaped(builder, call, found, call.shape[1:]))


def _conv3d(builder: Builder, call: Node) -> None:
    """A convolution of images, frame by frame: its channels are channels by depth."""
    weight = call["weight"].meta["val"]
    depth = weight.shape[2]
    given = call["padding"]
    if isinstance(given, str):
        reach = [d * (k - 1) for d, k in zip(_three(call["dilation"]), weight.shape[2:],
                                             strict=True)]  # fmt: skip
        if given == "same" and any(r % 2 for r in reach):
            raise builder.refused(call, 'an even kernel with padding "same"')
        given = [r // 2 for r in reach] if given == "same" else 0
    stride, padding = _three(call["stride"]), _three(given)
    dilation, source = _three(call["dilation"]), builder.tensor(call, "input")
    if padding[0]:
        source = _padded(builder, call, source, padding[0])
    frames = builder.tensors[source].shape[1] - dilation[0] * (depth - 1) - 1
    frames = frames // stride[0] + 1
    if frames < 1:
        raise builder.refused(call, "the kernel is larger than the padded input")
    parts = []
    channels, _, *image = builder.tensors[source].shape
    for at in range(depth):
        part = strided(
            *(builder, call, source, 1, at * dilation[0]), count=frames, step=stride[0]
        )
        turned = transposed(builder, call, part, (1, 0, 2, 3))
        parts.append(reshaped(builder, call, turned, (frames, channels, 1, *image)))
    whole = joined(builder, call, parts, 2)
    whole = reshaped(builder, call, whole, (frames, channels * depth, *image))
    out = call.shape[1], *call.shape[3:]
    found = builder.step(
        *(call, "conv_frames", (whole,), (frames, *out)),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(*stride[1:], *padding[1:], *dilation[1:], call["groups"]),
    )
    builder.put(call, transposed(builder, call, found, (1, 0, 2, 3)))


def _three(value: Any) -> list[int]:
    own = [value] * 3 if isinstance(value, int) else list(value)
    return own * 3 if len(own) == 1 else own


def _padded(builder: Builder, call: Node, source: int, border: int) -> int:
    """Frames of zeros before and behind (C, D, H, W); borders reach three axes."""
    channels, depth, *image = builder.tensors[source].shape
    shape = (channels, depth + 2 * border, *image)
    ints = (border, 0, 0, border, 0, 0, _IMAGE, 0)
    return builder.step(call, "pad", (source,), shape, ints=ints, reals=(0.0,))


def _padding(
    builder: Builder, call: Node, axes: int, dilation: tuple[int, int]
) -> tuple[int, int]:
    given = call["padding"]
    if given == "valid":
        return 0, 0
    if given != "same":
        return pair(given, axes, 0)
    kernel: Sequence[int] = call["weight"].meta["val"].shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation[2 - axes :], kernel, strict=True)]
    if any(r % 2 for r in reach):
        raise builder.refused(call, 'an even kernel with padding "same"')
    return pair([r // 2 for r in reach], axes, 0)


def _linear(builder: Builder, call: Node) -> None:
    source, layout = builder.value(call, "input")
    if layout.axis == len(call.shape) - 1:
        raise builder.refused(call, "works along the batch")
    weight = call["weight"]
    if weight not in builder.parameters and weight not in builder.constants:
        weight, own = builder.value(call, "weight")
        if own.axis is not None:
            raise builder.refused(call, "its weight differs by sample")
        _computed(builder, call, source, weight, layout)
        return
    builder.emit(
        call,
        "linear",
        (source,),
        layout=layout,
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
    )


def _computed(
    builder: Builder, call: Node, source: int, weight: int, layout: Layout
) -> None:
    """With a weight that is made of parameters: a product of two tensors."""
    before = builder.tensors[source].shape
    rows = 1
    for n in before[:-1]:
        rows *= n
    one = reshaped(builder, call, source, (rows, before[-1]))
    two = transposed(builder, call, weight, (1, 0))
    found = multiplied(builder, call, one, two)
    columns = builder.tensors[found].shape[-1]
    found = reshaped(builder, call, found, (*before[:-1], columns))
    if call.get("bias") is not None:
        bias = builder.value(call, "bias")[0]
        found = combined(builder, call, "add", found, bias)
    builder.put(call, found, layout)


def _bilinear(builder: Builder, call: Node) -> None:
    """Linear in the products of each value of one input with each of the other."""
    (one, layout), (two, other) = (builder.value(call, f"input{k}") for k in (1, 2))
    if layout != other or layout.axis in {None, len(call.shape) - 1}:
        raise builder.refused(call, "the batch is at another axis of each")
    *rows, left = builder.tensors[one].shape
    right = builder.tensors[two].shape[-1]
    one = reshaped(builder, call, one, (*rows, left, 1))
    two = reshaped(builder, call, two, (*rows, 1, right))
    pairs = combined(builder, call, "multiply", one, two)
    pairs = reshaped(builder, call, pairs, (*rows, left * right))
    weight = builder.value(call, "weight")[0]
    columns = call["weight"].meta["val"].shape[0]
    weight = reshaped(builder, call, weight, (columns, left * right))
    _computed(builder, call, pairs, weight, layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "conv1d": by_direction(_conv),
    "conv2d": by_direction(_conv),
    "conv3d": by_direction(_conv3d),
    "linear": by_direction(_linear),
    "bilinear": _bilinear,
}
