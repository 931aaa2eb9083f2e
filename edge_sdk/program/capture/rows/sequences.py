"""Layer norm, softmax, means and sums over axes, and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node

__all__ = ["ROWS", "axis_of"]


def axis_of(builder: Builder, call: Node, name: str, dim: int) -> int:
    """The axis per sample that a `dim` of torch's is.

    Raises:
        EngineError: If it is the batch's.
    """
    axis = dim % (len(builder.shape(call, name)) + 1) - 1
    if axis < 0:
        raise builder.refused(call, "works along the batch")
    return axis


def _layer_norm(builder: Builder, call: Node) -> None:
    builder.emit(
        call,
        "layer_norm",
        (builder.tensor(call, "input"),),
        parameters=(
            builder.parameter(call, "weight"),
            builder.parameter(call, "bias"),
        ),
        ints=(len(call["normalized_shape"]),),
        reals=(call.get("eps", 1e-5),),
    )


def _softmax(name: str) -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        axis = axis_of(builder, call, "self", call["dim"])
        builder.emit(call, name, (builder.tensor(call, "self"),), ints=(axis,))

    return row


def _reduction(*, mean: bool) -> Callable[[Builder, Node], None]:
    def row(builder: Builder, call: Node) -> None:
        shape = builder.shape(call, "self")
        given = call.get("dim")
        dims = [given] if isinstance(given, int) else list(given or ())
        axes = sorted(axis_of(builder, call, "self", d) for d in dims)
        if not axes or axes != list(range(axes[0], axes[-1] + 1)):
            raise builder.refused(call, f"a sum or mean over the axes {dims}")
        keep = int(call.get("keepdim", False))
        source = (builder.tensor(call, "self"),)
        if mean and axes[-1] == len(shape) - 1:
            builder.emit(call, "mean", source, ints=(len(axes), keep))
            return
        count = 1
        for axis in axes:
            count *= shape[axis]
        factor = 1 / count if mean else 1.0
        ints = (axes[0], axes[-1], keep)
        builder.emit(call, "sum", source, ints=ints, reals=(factor,))

    return row


def _attention(builder: Builder, call: Node) -> None:
    if call.get("attn_mask") is not None or call.get("enable_gqa"):
        raise builder.refused(call, "attention with a mask or grouped queries")
    parts = tuple(builder.tensor(call, name) for name in ("query", "key", "value"))
    width = builder.shape(call, "query")[-1]
    builder.emit(
        call,
        "attention",
        parts,
        ints=(int(call.get("is_causal", False)), len(builder.operations)),
        reals=(call.get("scale", width**-0.5), call.get("dropout_p", 0.0)),
    )


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "layer_norm": _layer_norm,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "mean": _reduction(mean=True),
    "sum": _reduction(mean=False),
    "scaled_dot_product_attention": _attention,
}
