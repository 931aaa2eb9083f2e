"""Normalisations by channels, with the residual and the ReLU fused into them."""

from __future__ import annotations

from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _shapes(call: Operands) -> tuple[Shape, ...]:
    x, at = call.inputs[0], call.ints
    call.require(bool(x), "takes (C, ...) per sample")
    call.require(all(other == x for other in call.inputs), "the residual does not fit")
    given = {shape for shape in call.parameters if shape is not None}
    call.require(given <= {(x[0],)}, f"{x[0]} channels do not fit {given}")
    groups = at["groups"]
    call.require(groups >= 0 and (not groups or x[0] % groups == 0),
                 f"{x[0]} channels do not divide into {groups} groups")  # fmt: skip
    call.require(0 <= at["relu"] <= 2, "an unknown activation")
    running = call.parameters[2] is not None
    both = running == (call.parameters[3] is not None)
    call.require(both, "it has one of the two running statistics")
    call.require(bool(groups or at["batch"] or running), "it has no running statistics")
    return (x,)


def _arguments(call: Operands) -> tuple[int, ...]:
    channels, pixels = _planes(call.inputs[0])
    at = call.ints
    return channels, pixels, at["groups"], at["relu"], at["batch"]


def _planes(shape: Shape) -> tuple[int, int]:
    pixels = 1
    for n in shape[1:]:
        pixels *= n
    return shape[0], pixels


def _stash(call: Operands) -> tuple[int, ...]:
    channels = call.inputs[0][0]
    moments = call.ints["groups"] or channels
    return moments, moments, channels, channels


def again(call: Operands) -> bool:
    """True where the backward pass computes the activation again from the input."""
    at = call.ints
    return bool(at["relu"]) and not at["groups"] and len(call.inputs) == 1


RULES: Final[dict[str, Rule]] = {
    # groups: 0 for batch norm. relu: 0, 1, or 2 for ReLU6. batch: 1 where it takes the
    # batch's own statistics.
    "norm": Rule(
        inputs=(1, 2),
        parameters=("weight?", "bias?", "running_mean?", "running_var?"),
        ints=("groups", "relu", "batch"),
        reals=("momentum", "eps"),
        shapes=_shapes,
        arguments=_arguments,
        stash=_stash,
        reads_in=(0,),
        reads_out=lambda call: (0,) if call.ints["relu"] and not again(call) else (),
        reads_stash=lambda call: (0, 1, 2, 3) if again(call) else (0, 1),
        mixes=lambda call: bool(call.ints["batch"]) and not call.ints["groups"],
        moves=lambda call: (2, 3) if call.ints["batch"] else (),
    ),
}
