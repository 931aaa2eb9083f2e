"""Layers with weights that a mask may thin out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _conv_weight(call: Operands) -> tuple[Shape, int]:
    """(out, in / groups, kh, kw); a one-dimensional conv has a kernel of 1 x k.

    Of a three-dimensional one the depth belongs to the input's channels.
    """
    shape = call.parameters[0]
    call.require(shape is not None and len(shape) in {3, 4, 5}, "a conv needs a weight")
    assert shape is not None  # noqa: S101 - for mypy
    if len(shape) == 5:
        shape = (shape[0], shape[1] * shape[2], *shape[3:])
    kernel = (1, *shape[2:]) if len(shape) == 3 else shape[2:]
    return (*shape[:2], *kernel), call.ints["groups"]


def _conv_shapes(call: Operands) -> tuple[Shape, ...]:
    (rows, width, kh, kw), groups = _conv_weight(call)
    channels = call.image()[0]
    call.require(groups >= 1 and width * groups == channels and rows % groups == 0,
                 f"{channels} channels do not fit the weight {call.parameters[0]} "
                 f"in {groups} groups")  # fmt: skip
    bias = call.parameters[1]
    call.require(bias in {None, (rows,)}, f"the bias is {bias}, not ({rows},)")
    return (call.convolved(rows, (kh, kw)),)


def _conv_arguments(call: Operands) -> tuple[int, ...]:
    out, at = call.outputs[0], call.ints
    pixels = (1, out[1]) if len(out) == 2 else out[1:]
    return (
        *(*call.image(), out[0], *pixels),
        *(at["stride_h"], at["stride_w"], at["padding_h"], at["padding_w"]),
        *(at["dilation_h"], at["dilation_w"]),
    )


def _norm_conv_shapes(call: Operands) -> tuple[Shape, ...]:
    shapes = _conv_shapes(call)
    channels, at = call.inputs[0][0], call.ints
    given = {shape for shape in call.parameters[2:] if shape is not None}
    call.require(given <= {(channels,)}, f"{channels} channels do not fit {given}")
    groups = at["norm_groups"]
    call.require(groups >= 0 and (not groups or channels % groups == 0),
                 f"{channels} channels do not divide into {groups} groups")  # fmt: skip
    call.require(0 <= at["relu"] <= 2, "an unknown activation")
    return shapes


def _norm_conv_arguments(call: Operands) -> tuple[int, ...]:
    at = call.ints
    norm = at["norm"], at["norm_groups"], at["relu"], at["batch"]
    return (*_conv_arguments(call), *norm)


def _norm_conv_stash(call: Operands) -> tuple[int, ...]:
    """Mean, 1 / deviation, and the scale and shift that they give."""
    if not call.ints["norm"]:
        return ()
    channels = call.inputs[0][0]
    moments = call.ints["norm_groups"] or channels
    return moments, moments, channels, channels


def _linear_weight(call: Operands) -> tuple[Shape, int]:
    shape = call.parameters[0]
    call.require(shape is not None and len(shape) == 2, "a linear layer needs a weight")
    assert shape is not None  # noqa: S101 - for mypy
    return shape, 1


def _linear_shapes(call: Operands) -> tuple[Shape, ...]:
    (rows, columns), _ = _linear_weight(call)
    x, bias = call.inputs[0], call.parameters[1]
    call.require(bool(x) and x[-1] == columns,
                 f"{x} per sample does not fit {columns} inputs")  # fmt: skip
    call.require(bias in {None, (rows,)}, f"the bias is {bias}, not ({rows},)")
    return ((*x[:-1], rows),)


def _linear_arguments(call: Operands) -> tuple[int, ...]:
    x, out = call.inputs[0], call.outputs[0]
    positions = math.prod(x[:-1])
    return positions, x[-1], out[-1]


def _one_frame(call: Operands) -> Operands:
    x = call.inputs[0]
    call.require(len(x) == 4, f"takes (frames, C, H, W) per sample, not {x}")
    outputs = tuple(shape[1:] for shape in call.outputs)
    return replace(call, inputs=(x[1:],), outputs=outputs)


def _frames_shapes(call: Operands) -> tuple[Shape, ...]:
    (shape,) = _conv_shapes(_one_frame(call))
    return ((call.inputs[0][0], *shape),)


def _frames_arguments(call: Operands) -> tuple[int, ...]:
    return (*_conv_arguments(_one_frame(call)), call.inputs[0][0])


_GEOMETRY: Final = (
    *("stride_h", "stride_w", "padding_h", "padding_w"),
    *("dilation_h", "dilation_w", "groups"),
)
RULES: Final[dict[str, Rule]] = {
    "conv": Rule(
        inputs=(1, 1),
        parameters=("weight", "bias?"),
        ints=_GEOMETRY,
        shapes=_conv_shapes,
        arguments=_conv_arguments,
        reads_in=(0,),
        weight=_conv_weight,
    ),
    # On each of (frames, C, H, W) per sample.
    "conv_frames": Rule(
        inputs=(1, 1),
        parameters=("weight", "bias?"),
        ints=_GEOMETRY,
        shapes=_frames_shapes,
        arguments=_frames_arguments,
        reads_in=(0,),
        weight=_conv_weight,
    ),
    # What a norm (norm: 1) and an activation make of the input is convolved;
    # norm_groups is 0 for batch norm, relu 2 for ReLU6.
    "norm_conv": Rule(
        inputs=(1, 1),
        parameters=(
            *("weight", "bias?", "norm_weight?", "norm_bias?"),
            *("running_mean?", "running_var?"),
        ),
        ints=(*_GEOMETRY, "norm", "norm_groups", "relu", "batch"),
        reals=("momentum", "eps"),
        shapes=_norm_conv_shapes,
        arguments=_norm_conv_arguments,
        stash=_norm_conv_stash,
        reads_in=(0,),
        reads_stash=lambda call: (0, 1, 2, 3) if call.ints["norm"] else (),
        weight=_conv_weight,
        mixes=lambda call: bool(call.ints["batch"]) and not call.ints["norm_groups"],
        moves=lambda call: (4, 5) if call.ints["batch"] else (),
    ),
    "linear": Rule(
        inputs=(1, 1),
        parameters=("weight", "bias?"),
        shapes=_linear_shapes,
        arguments=_linear_arguments,
        reads_in=(0,),
        weight=_linear_weight,
    ),
}
