"""Contrasts written by hand: exponentials of all pairs, their sums and their diagonal.

A row's sum of exponentials is the contrast of that row with its partner and that
partner's product, which are values of one example each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.operands import number_of
from edge_sdk.program.capture.rows.losses.pairs import (
    RULES,
    Pairs,
    Rule,
    is_diagonal,
    scaled,
)
from edge_sdk.program.capture.rows.rearranged.copies import strided
from edge_sdk.program.capture.rows.rearranged.joins import joined
from edge_sdk.program.capture.rows.reductions import summed
from edge_sdk.program.capture.steps import combined, reshaped, unary

__all__ = ["of_pairs"]


def of_pairs(builder: Builder, call: Node, name: str) -> None:
    """Emits a call that takes a matrix of pairs.

    Raises:
        EngineError: If programs have nothing for it; names layer and source line.
    """
    node = next((v for v in call.arguments.values() if v in builder.pairs), None)
    kind = "" if node is None else builder.pairs[node].kind
    rule = _BY_KIND[kind].get(name.removesuffix("_"))
    if rule is None or node is None:
        raise builder.refused(call, "it takes products of all pairs of examples")
    rule(builder, call, builder.pairs[node])


def _kept(builder: Builder, call: Node, own: Pairs) -> None:
    builder.pairs[call.node] = own


def _exponential(builder: Builder, call: Node, own: Pairs) -> None:
    builder.pairs[call.node] = replace(own, kind="exp")


def _shares(builder: Builder, call: Node, own: Pairs) -> None:
    """Logarithms of rows' or columns' shares, of which the diagonal alone counts."""
    along = own if call["dim"] % len(call.shape) else own.turned()
    builder.pairs[call.node] = replace(along, kind="log_softmax")


def _hidden(builder: Builder, call: Node, own: Pairs) -> None:
    """Exponentials times zero on the diagonal, and one elsewhere."""
    other = call["other"] if call["self"] in builder.pairs else call["self"]
    value = builder.constants.values.get(other)
    if not isinstance(value, torch.Tensor):
        raise builder.refused(call, "exponentials of pairs times another value")
    if not is_diagonal(value == 0) or not bool(((value == 0) | (value == 1)).all()):
        raise builder.refused(call, "hides more than the diagonal of pairs")
    builder.pairs[call.node] = replace(own, apart=True)


def _zeroed(builder: Builder, call: Node, own: Pairs) -> None:
    """Exponentials whose diagonal is filled with zeros."""
    mask = builder.constants.values.get(call["mask"])
    known = isinstance(mask, torch.Tensor) and is_diagonal(mask)
    if not known or number_of(builder, call["value"]) != 0:
        raise builder.refused(call, "fills in more than the diagonal of pairs")
    builder.pairs[call.node] = replace(own, apart=True)


def _count(builder: Builder, call: Node, own: Pairs) -> int:
    """Number of rows that an example has; as many as columns."""
    rows, columns = (builder.tensors[t].shape[0] for t in (own.rows, own.columns))
    one, two = own.row_layout, own.column_layout
    if rows != columns or (one.outer, one.inner) != (two.outer, two.inner):
        raise builder.refused(call, "its rows and columns are not the same examples")
    return rows


def _of_row(builder: Builder, call: Node, own: Pairs, found: int) -> None:
    """Makes one value for each row the result of a call."""
    layout = replace(own.row_layout, axis=0)
    shape = builder.sample(call, layout)
    builder.put(call, reshaped(builder, call, found, shape), layout)


def _product(builder: Builder, call: Node, rows: int, columns: int) -> int:
    """Each row times the column of its number."""
    both = combined(builder, call, "multiply", rows, columns)
    found = summed(builder, call, both, [1], 1.0)
    return reshaped(builder, call, found, builder.tensors[rows].shape[:1])


def _contrast(builder: Builder, call: Node, own: Pairs, shift: int) -> tuple[int, int]:
    """The contrast of each row with a partner, and that partner's product."""
    rows, count = scaled(builder, call, own), _count(builder, call, own)
    partner = own.columns
    if shift:
        parts = [
            strided(builder, call, partner, 0, first, count=some)
            for first, some in ((shift, count - shift), (0, shift))
        ]
        partner = joined(builder, call, parts, 0)
    terms = builder.step(
        *(call, "contrast", (rows, own.columns), (count,)),
        ints=(shift, int(own.apart)),
    )
    return terms, _product(builder, call, rows, partner)


def _on_diagonal(builder: Builder, call: Node, own: Pairs) -> None:
    """Of each row what it is with the column of its own number."""
    if own.apart or any(call.get(n) for n in ("offset", "diagonal")):
        raise builder.refused(call, "another diagonal than each example with itself")
    _count(builder, call, own)
    if own.kind == "log_softmax":
        terms, _ = _contrast(builder, call, own, 0)
        found = unary(builder, call, "affine", terms, -1.0)
    else:
        rows = scaled(builder, call, own)
        found = _product(builder, call, rows, own.columns)
    if own.kind == "exp":
        found = unary(builder, call, "exp", found)
    _of_row(builder, call, own, found)


def _added(builder: Builder, call: Node, own: Pairs) -> None:
    """Sums of exponentials along rows or columns, and their logarithms."""
    dims = call.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    matrix = len(call["self"].meta["val"].shape) == 2
    if len(dims) != 1 or not matrix or call.get("keepdim"):
        raise builder.refused(call, "such a sum of pairs of examples")
    own = own if dims[0] % 2 else own.turned()
    shift = int(own.apart)
    if shift and _count(builder, call, own) == 1:
        raise builder.refused(call, "pairs of one row each, less the diagonal")
    terms, product = _contrast(builder, call, own, shift)
    found = combined(builder, call, "add", terms, product)
    if own.kind == "exp":
        found = unary(builder, call, "exp", found)
    _of_row(builder, call, own, found)


_DIAGONAL: Final[Mapping[str, Rule]] = dict.fromkeys(("diag", "diagonal"), _on_diagonal)
_MADE: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("contiguous", "clone", "alias"), _kept),
    **_DIAGONAL,
}
_BY_KIND: Final[Mapping[str, Mapping[str, Rule]]] = {
    "": {
        **RULES,
        **_DIAGONAL,
        "exp": _exponential,
        "log_softmax": _shares,
        "logsumexp": _added,
    },
    "exp": {**_MADE, "mul": _hidden, "masked_fill": _zeroed, "sum": _added},
    "log_softmax": _MADE,
}
