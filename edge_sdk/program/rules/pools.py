"""Pools."""

from __future__ import annotations

from typing import Final

from edge_sdk.program.graph import Shape
from edge_sdk.program.rule import Operands, Rule

__all__ = ["RULES"]

_WINDOW = (
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w"),
    "relu",
)


def _image(call: Operands, shape: Shape) -> tuple[int, int, int]:
    call.require(len(shape) in {2, 3}, f"takes (C, H, W) or (C, L), not {shape}")
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (*shape,)  # type: ignore[return-value]


def _shapes(call: Operands) -> tuple[Shape, ...]:
    channels, height, width = _image(call, call.inputs[0])
    at, out = call.ints, []
    for axis, size in (("h", height), ("w", width)):
        kernel, stride = at[f"kernel_{axis}"], at[f"stride_{axis}"]
        padding = at[f"padding_{axis}"]
        call.require(kernel >= 1 and stride >= 1 and 0 <= 2 * padding <= kernel,
                     "odd geometry")  # fmt: skip
        room = size + 2 * padding - kernel
        call.require(room >= 0, "the window is larger than the padded input")
        out.append(room // stride + 1)
    flat = len(call.inputs[0]) == 2
    return ((channels, out[1]) if flat else (channels, *out),)


def _arguments(call: Operands) -> tuple[int, ...]:
    channels, height, width = _image(call, call.inputs[0])
    _, *out = _image(call, call.outputs[0])
    return (channels, height, width, *out, *(call.ints[name] for name in _WINDOW))


def _winners(call: Operands) -> tuple[int, ...]:
    """One byte per output, counted in reals of four bytes."""
    channels, height, width = _image(call, call.outputs[0])
    return ((channels * height * width + 3) // 4,)


RULES: Final[dict[str, Rule]] = {
    "max_pool": Rule(
        inputs=(1, 1),
        ints=_WINDOW,
        shapes=_shapes,
        arguments=_arguments,
        stash=_winners,
        reads_stash=(0,),
    ),
}
