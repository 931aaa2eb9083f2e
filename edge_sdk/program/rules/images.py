"""Pools over any windows, borders, upsampling and the transposed convolution."""

from __future__ import annotations

import math
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]

_REGION = (
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w"),
    *("dilation_h", "dilation_w", "adaptive", "average", "include_pad", "divisor"),
)


def _image(call: Operands, shape: Shape) -> tuple[int, int, int]:
    call.require(len(shape) in {2, 3}, f"takes (C, H, W) or (C, L), not {shape}")
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (*shape,)  # type: ignore[return-value]


def _sized(call: Operands) -> tuple[Shape, ...]:
    """The output's own height and width, which attributes do not say alone."""
    (shape,) = call.outputs
    channels, height, width = _image(call, call.inputs[0])
    own, *size = _image(call, shape)
    flat = len(call.inputs[0]) == 2
    call.require(own == channels and len(shape) == len(call.inputs[0]),
                 f"{call.inputs[0]} gives no {shape}")  # fmt: skip
    call.require(not flat or (height == size[0] == 1 and width > 0), "odd geometry")
    return (shape,)


def _region_shapes(call: Operands) -> tuple[Shape, ...]:
    found, at = _sized(call), call.ints
    if at["adaptive"]:
        return found
    _, *inputs = _image(call, call.inputs[0])
    _, *outputs = _image(call, call.outputs[0])
    for axis, size, out in zip("hw", inputs, outputs, strict=True):
        kernel, stride = at[f"kernel_{axis}"], at[f"stride_{axis}"]
        padding, dilation = at[f"padding_{axis}"], at[f"dilation_{axis}"]
        call.require(kernel >= 1 and stride >= 1 and 0 <= 2 * padding <= kernel
                     and dilation >= 1, "odd geometry")  # fmt: skip
        # The last window begins within the plane, and no whole one is left out.
        room = size + 2 * padding - dilation * (kernel - 1) - 1
        call.require((out - 1) * stride - padding < size and room // stride < out,
                     f"windows over {size} pixels give no {out}")  # fmt: skip
    return found


def _resized(call: Operands) -> tuple[int, ...]:
    _, *out = _image(call, call.outputs[0])
    return (*_image(call, call.inputs[0]), *out, *call.operation.ints)


_BORDERS = (
    *("before_0", "before_1", "before_2", "after_0", "after_1", "after_2"),
    *("axes", "mode"),
)


def _pad_shapes(call: Operands) -> tuple[Shape, ...]:
    """``axes`` last axes get borders; numbered from the last but two."""
    shape, at = call.inputs[0], call.ints
    axes = at["axes"]
    call.require(1 <= axes <= min(3, len(shape)), f"{shape} has no {axes} axes")
    call.require(0 <= at["mode"] <= 3, "an unknown kind of border")
    borders = [at[f"before_{k}"] + at[f"after_{k}"] for k in range(3)]
    call.require(not any(borders[: 3 - axes]), "odd borders")
    grown = [n + b for n, b in zip(shape[-axes:], borders[3 - axes :], strict=True)]
    call.require(min(grown) >= 1, f"nothing is left of {shape}")
    return ((*shape[:-axes], *grown),)


def _pad_arguments(call: Operands) -> tuple[int, ...]:
    shape, axes = call.inputs[0], call.ints["axes"]
    own = (*([1] * (3 - axes)), *shape[-axes:])
    borders = call.operation.ints[:6]
    return (math.prod(shape[:-axes]), *own, *borders, call.ints["mode"])


def _transpose_weight(call: Operands) -> tuple[Shape, int]:
    """(in, out / groups, kh, kw); a one-dimensional one has a kernel of 1 x k."""
    shape = call.parameters[0]
    call.require(shape is not None and len(shape) in {3, 4}, "a conv needs a weight")
    assert shape is not None  # noqa: S101 - for mypy
    kernel = (1, *shape[2:]) if len(shape) == 3 else shape[2:]
    return (*shape[:2], *kernel), call.ints["groups"]


def _transpose_shapes(call: Operands) -> tuple[Shape, ...]:
    (rows, width, kh, kw), groups = _transpose_weight(call)
    channels, height, breadth = _image(call, call.inputs[0])
    at, bias = call.ints, call.parameters[1]
    call.require(groups >= 1 and rows == channels and rows % groups == 0,
                 f"{channels} channels do not fit the weight {call.parameters[0]} "
                 f"in {groups} groups")  # fmt: skip
    call.require(bias in {None, (width * groups,)}, f"the bias is {bias}")
    out = []
    for axis, size, kernel in (("h", height, kh), ("w", breadth, kw)):
        stride, padding = at[f"stride_{axis}"], at[f"padding_{axis}"]
        dilation, more = at[f"dilation_{axis}"], at[f"more_{axis}"]
        call.require(stride >= 1 and padding >= 0 and dilation >= 1, "odd geometry")
        call.require(0 <= more < max(stride, dilation), "odd output padding")
        # Where it is not below the stride, the convolution back has further pixels.
        call.require(more < stride, "an output padding of a stride or more")
        out.append(
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
        )
    call.require(min(out) >= 1, "the output has no pixels")
    if len(call.inputs[0]) == 2:
        return ((width * groups, out[1]),)
    return ((width * groups, *out),)


def _transpose_arguments(call: Operands) -> tuple[int, ...]:
    at = call.ints
    return (
        *_image(call, call.inputs[0]),
        *_image(call, call.outputs[0]),
        *(at["stride_h"], at["stride_w"], at["padding_h"], at["padding_w"]),
        *(at["dilation_h"], at["dilation_w"]),
    )


RULES: Final[dict[str, Rule]] = {
    "region_max": Rule(
        inputs=(1, 1),
        ints=_REGION,
        shapes=_region_shapes,
        arguments=_resized,
        reads_in=(0,),
    ),
    "region_average": Rule(
        inputs=(1, 1),
        ints=_REGION,
        shapes=_region_shapes,
        arguments=_resized,
    ),
    "upsample": Rule(
        inputs=(1, 1),
        ints=("linear", "align_corners"),
        reals=("scale_h", "scale_w"),
        shapes=_sized,
        arguments=_resized,
    ),
    "pad": Rule(
        inputs=(1, 1),
        ints=_BORDERS,
        reals=("value",),
        shapes=_pad_shapes,
        arguments=_pad_arguments,
    ),
    "conv_transpose": Rule(
        inputs=(1, 1),
        parameters=("weight", "bias?"),
        ints=(
            *("stride_h", "stride_w", "padding_h", "padding_w"),
            *("dilation_h", "dilation_w", "more_h", "more_w", "groups"),
        ),
        shapes=_transpose_shapes,
        arguments=_transpose_arguments,
        reads_in=(0,),
        weight=_transpose_weight,
    ),
}
