"""Rows of a table by number: embeddings, and bags of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import Layout
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import reshaped

__all__ = ["ROWS"]

_MAX = 2  # torch's number of a bag's mode; 0 is a sum, 1 a mean


def _embedding(builder: Builder, call: Node) -> None:
    if call.get("sparse", False) or call.get("scale_grad_by_freq", False):
        raise builder.refused(call, "sparse gradients, or scaled by frequency")
    source, layout = builder.value(call, "indices")
    if call["indices"].meta["val"].dtype.is_floating_point:
        raise builder.refused(call, "tokens that are no whole numbers")
    tokens = call["weight"].meta["val"].shape[0]
    padding = call.get("padding_idx", -1)
    builder.emit(
        call,
        "embedding",
        (source,),
        layout=layout,
        parameters=(builder.parameter(call, "weight"),),
        ints=(padding if 0 <= padding < tokens else -1,),
    )


def _bag(builder: Builder, call: Node) -> None:
    """The sum or mean of the rows of each bag; all bags are of one size."""
    source, layout = builder.value(call, "indices")
    offsets = call["offsets"]
    if offsets not in builder.constants:
        raise builder.refused(call, "bags whose sizes come from the batch")
    starts = builder.constants.tensor(offsets).tolist()
    count = call["indices"].meta["val"].shape[0]
    size = count // max(1, len(starts))
    if layout != Layout(0, 1, layout.inner) or starts != [*range(0, count, size)]:
        raise builder.refused(call, "bags of different sizes")
    weighted = call.get("per_sample_weights") is not None
    if weighted or call.get("padding_idx", -1) >= 0 or call["mode"] >= _MAX:
        raise builder.refused(call, "bags with weights, padding or a maximum")
    columns = call["weight"].meta["val"].shape[1]
    rows = builder.step(
        *(call, "embedding", (source,), (layout.inner, columns)),
        parameters=(builder.parameter(call, "weight"),),
        ints=(-1,),
    )
    bags = layout.inner // size
    rows = reshaped(builder, call, rows, (bags, size, columns))
    found = summed(builder, call, rows, [1], 1 / size if call["mode"] else 1.0)
    own = (bags, columns) if bags > 1 else (columns,)
    builder.many[call.node] = (reshaped(builder, call, found, own),)
    builder.layouts[call.node] = Layout(0, 1, bags)


ROWS: Final[dict[str, Callable[[Builder, Node], None]]] = {
    "embedding": _embedding,
    "embedding_bag": _bag,
}
