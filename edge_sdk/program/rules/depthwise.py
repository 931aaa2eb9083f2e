"""The depth-wise chain: norm and activation, convolution, norm and activation.

No model is captured into it: a pass makes it out of its parts.
"""

from __future__ import annotations

from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]


def _weight(call: Operands) -> tuple[Shape, int]:
    """(out, 1, kh, kw), a group for each input channel."""
    shape = call.parameters[0]
    call.require(shape is not None and len(shape) in {3, 4} and shape[1] == 1,
                 "a depth-wise conv needs a weight of (out, 1, ...)")  # fmt: skip
    assert shape is not None  # noqa: S101 - for mypy
    kernel = (1, *shape[2:]) if len(shape) == 3 else shape[2:]
    return (shape[0], 1, *kernel), call.inputs[0][0]


def _shapes(call: Operands) -> tuple[Shape, ...]:
    (rows, _, kh, kw), channels = _weight(call)
    at = call.ints
    call.require(rows % channels == 0, f"{channels} channels do not fit {rows}")
    for first, count in ((1, rows), (2, channels), (6, rows)):
        last = {1: 2, 2: 6, 6: 10}[first]
        given = {shape for shape in call.parameters[first:last] if shape is not None}
        call.require(given <= {(count,)}, f"{count} channels do not fit {given}")
    for place, first in (("before", 2), ("after", 6)):
        norm, running = at[f"{place}_norm"], call.parameters[first + 2 : first + 4]
        call.require(norm in {0, 1} and 0 <= at[f"{place}_relu"] <= 2, "odd attributes")
        call.require(bool(not norm or at["batch"] or None not in running),
                     "it has no running statistics")  # fmt: skip
    return (call.convolved(rows, (kh, kw)),)


def _arguments(call: Operands) -> tuple[int, ...]:
    out, (_, _, *kernel), _ = call.outputs[0], *_weight(call)
    pixels = (1, out[1]) if len(out) == 2 else out[1:]
    return (*call.image(), out[0], *pixels, *kernel, *call.operation.ints)


def _mixes(call: Operands) -> bool:
    at = call.ints
    return bool(at["batch"]) and bool(at["before_norm"] or at["after_norm"])


RULES: Final[dict[str, Rule]] = {
    "depthwise": Rule(
        inputs=(1, 1),
        parameters=(
            *("weight", "bias?"),
            *(
                f"before_{n}?"
                for n in ("weight", "bias", "running_mean", "running_var")
            ),
            *(f"after_{n}?" for n in ("weight", "bias", "running_mean", "running_var")),
        ),
        ints=(
            *("stride_h", "stride_w", "padding_h", "padding_w"),
            *("dilation_h", "dilation_w", "batch"),
            *("before_norm", "before_relu", "after_norm", "after_relu"),
        ),
        reals=("before_momentum", "before_eps", "after_momentum", "after_eps"),
        shapes=_shapes,
        arguments=_arguments,
        stash=lambda call: (4 * call.inputs[0][0], 4 * call.outputs[0][0]),
        reads_in=(0,),
        reads_stash=(0, 1),
        weight=_weight,
        mixes=_mixes,
        moves=lambda call: (4, 5, 8, 9) if call.ints["batch"] else (),
    ),
}
