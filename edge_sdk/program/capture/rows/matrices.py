"""Products of matrices that no layer holds: attention, computed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.operands import layout_of, operand
from edge_sdk.program.capture.rows.losses.pairs import paired
from edge_sdk.program.capture.steps import combined, constant, expanded, reshaped

__all__ = ["ROWS", "multiplied"]


def multiplied(builder: Builder, call: Node, one: int, two: int) -> int:
    """The product (..., rows, depth) by (..., depth, columns) of two tensors."""
    shape = (*builder.tensors[one].shape[:-1], builder.tensors[two].shape[-1])
    return builder.step(call, "product", (one, two), shape)


def _product(builder: Builder, call: Node) -> None:
    """Bmm and mm: of the batch's own matrices, or with the same for every sample."""
    if paired(builder, call):
        return
    nodes = call["self"], call["mat2"]
    places = [_operand(builder, call, n, o) for n, o in (nodes, nodes[::-1])]
    (one, left), (two, right) = places
    rank = len(call.shape)
    layout = left if left != ALONE else right
    if ALONE not in {left, right} and left != right:
        raise builder.refused(call, "the batch is at another axis of each")
    both = left == right
    inside = (
        {rank - 2, rank - 1} if both else {rank - 1 if layout == left else rank - 2}
    )
    if layout.axis in inside and layout != ALONE:
        raise builder.refused(call, "works along the batch")
    # Both as (matrices, rows, columns) of a sample.
    one = _matrices(builder, call, one, left, rank)
    two = _matrices(builder, call, two, right, rank)
    count = max(builder.tensors[t].shape[0] for t in (one, two))
    one, two = (
        expanded(builder, call, t, (count, *builder.tensors[t].shape[1:]))
        for t in (one, two)
    )
    found = multiplied(builder, call, one, two)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


def _operand(
    builder: Builder, call: Node, node: fx.Node, other: fx.Node
) -> tuple[int, Layout]:
    """A factor; of a constant that torch repeated for each sample the one it is."""
    if node not in builder.constants or other in builder.constants:
        return builder.value(call, node)
    value, layout = builder.constants.tensor(node), builder.value(call, other)[1]
    size = layout.outer * builder.batch * layout.inner
    if layout.axis != 0 or value.dim() != 3 or len(value) != size:
        return builder.value(call, node)
    each = value.reshape(layout.outer, builder.batch, layout.inner, *value.shape[1:])
    if not bool((each == each[:, :1]).all()):
        raise builder.refused(call, "a constant that differs by sample")
    return constant(builder, call, each[:, 0].flatten(0, 1)), ALONE


def _matrices(
    builder: Builder, call: Node, tensor: int, layout: Layout, rank: int
) -> int:
    """(matrices, rows, columns); the batch's own axis of one has gone or comes back."""
    shape = builder.tensors[tensor].shape
    at = layout.axis
    if at is not None and not layout.extra:
        shape = (*shape[:at], 1, *shape[at:])
    if rank == 2:
        shape = (1, *shape)
    return reshaped(builder, call, tensor, shape)


def _plus_product(builder: Builder, call: Node) -> None:
    """Addmm and baddbmm with both factors one."""
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1:
        raise builder.refused(call, "a product with factors")
    names = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2")
    first, second = (call[n] for n in names)
    own = Node(call.node, {"self": first, "mat2": second}, call.shape)
    _product(builder, own)
    layout, found = builder.layouts[call.node], builder.place[call.node]
    layout_of(builder, call, [call["self"], first, second])  # they agree
    more = operand(builder, call, call["self"], layout)
    builder.put(call, combined(builder, call, "add", found, more), layout)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "bmm": _product,
    "mm": _product,
    "addmm": _plus_product,
    "baddbmm": _plus_product,
}
