"""Products of each example with each other one: contrastive losses.

Such a matrix is as large as the batch is long, so a program has no value of its shape.
It is followed from the product to the cross-entropy that picks each row's partner, and
becomes one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.layout import ALONE, Layout
from edge_sdk.program.capture.operands import number_of
from edge_sdk.program.capture.rows.rearranged.copies import transposed
from edge_sdk.program.capture.rows.reductions import mean_loss
from edge_sdk.program.capture.steps import combined, reshaped, unary

__all__ = ["RULES", "Pairs", "Rule", "is_diagonal", "paired", "scaled"]

_NEVER = -1e8  # what is filled in below it, no exponential of it is left
_MEAN = 1


@dataclass(frozen=True, slots=True)
class Pairs:
    """A matrix of products: row i times column j, of all examples of a batch.

    Attributes:
        rows: Tensor (count, width) of a sample.
        columns: Likewise.
        row_layout: Where the batch is among the matrix's rows.
        column_layout: Likewise.
        factor: Of every product.
        apart: Whether the diagonal does not count.
        kind: "" for the products, "exp" for their exponentials, "log_softmax" for the
            logarithms of their rows' shares.
    """

    rows: int
    columns: int
    row_layout: Layout
    column_layout: Layout
    factor: float = 1.0
    apart: bool = False
    kind: str = ""

    def turned(self) -> Pairs:
        """Rows as columns; shares are those of columns then, which are none here."""
        return replace(
            self,
            rows=self.columns,
            columns=self.rows,
            row_layout=self.column_layout,
            column_layout=self.row_layout,
        )


Rule = Callable[[Builder, Node, Pairs], Any]


def paired(builder: Builder, call: Node) -> bool:
    """Takes a product (examples, width) by (width, examples), if it is one."""
    one, left = builder.value(call, "self")
    two, right = builder.value(call, "mat2")
    first = len(call.shape) - 2
    alone = all(n == 1 for n in call.shape[:first])
    if not alone or left.axis != first or right.axis != first + 1:
        return False
    if not builder.trains:
        raise builder.refused(call, "works along the batch")
    width = call["self"].meta["val"].shape[-1]
    rows = reshaped(builder, call, one, (left.outer * left.inner, width))
    count = right.outer * right.inner
    turned = reshaped(builder, call, two, (width, count))
    if count == 1:
        columns = reshaped(builder, call, turned, (1, width))
    else:
        columns = transposed(builder, call, turned, (1, 0))
    builder.pairs[call.node] = Pairs(rows, columns, left, right)
    return True


def _same(builder: Builder, call: Node, own: Pairs) -> None:
    builder.pairs[call.node] = own


def _viewed(builder: Builder, call: Node, own: Pairs) -> None:
    """As a matrix among axes of one."""
    before = [n for n in call["self"].meta["val"].shape if n != 1]
    if [n for n in call.shape if n != 1] != before:
        raise builder.refused(call, "it takes products of all pairs of examples")
    builder.pairs[call.node] = own


def _turned(builder: Builder, call: Node, own: Pairs) -> None:
    """Among axes of one, rows may come to lie behind columns."""
    before = call["self"].meta["val"].shape
    rank = len(before)
    if "dims" in call.arguments:
        order = [d % rank for d in call["dims"]]
    else:
        order = [*range(rank)]
        one, two = call.get("dim0", 0) % rank, call.get("dim1", 1) % rank
        order[one], order[two] = two, one
    now = [d for d in order if before[d] != 1]
    builder.pairs[call.node] = own if now == sorted(now) else own.turned()


def _times(*, divided: bool) -> Callable[[Builder, Node, Pairs], None]:
    def rule(builder: Builder, call: Node, own: Pairs) -> None:
        other = call["other"] if call["self"] in builder.pairs else call["self"]
        if divided and other is call["self"]:
            raise builder.refused(call, "it divides by products of pairs of examples")
        number = number_of(builder, other) if other not in builder.pairs else None
        if number is not None:
            factor = own.factor / number if divided else own.factor * number
            builder.pairs[call.node] = replace(own, factor=factor)
            return
        if not isinstance(other, fx.Node) or other in builder.pairs:
            raise builder.refused(call, "products of products of pairs")
        tensor, layout = builder.value(call, other)
        if layout != ALONE or builder.tensors[tensor].size != 1:
            raise builder.refused(call, "pairs of examples times another value")
        scale = reshaped(builder, call, tensor, (1, 1))
        if divided:
            scale = unary(builder, call, "reciprocal", scale)
        rows = combined(builder, call, "multiply", own.rows, scale)
        builder.pairs[call.node] = replace(own, rows=rows)

    return rule


def _filled(builder: Builder, call: Node, own: Pairs) -> None:
    """Of masked_fill: the diagonal, with what no exponential is left of."""
    mask, value = call["mask"], number_of(builder, call["value"])
    known = mask in builder.constants and is_diagonal(builder.constants.tensor(mask))
    if not known or value is None or value > _NEVER:
        raise builder.refused(call, "fills in more than the diagonal of pairs")
    builder.pairs[call.node] = replace(own, apart=True)


def _diagonal(builder: Builder, call: Node, own: Pairs) -> None:
    if float(call["fill_value"]) > _NEVER:
        raise builder.refused(call, "fills in what still counts")
    builder.pairs[call.node] = replace(own, apart=True)


def _shifted(sign: float) -> Callable[[Builder, Node, Pairs], None]:
    """Plus, or minus, a constant that is large on the diagonal and zero elsewhere."""

    def rule(builder: Builder, call: Node, own: Pairs) -> None:
        other = call["other"]
        if other not in builder.constants or call["self"] not in builder.pairs:
            raise builder.refused(call, "sums of pairs of examples")
        value = sign * float(call.get("alpha", 1)) * builder.constants.tensor(other)
        hidden = is_diagonal(value != 0) and bool((value.diagonal() <= _NEVER).all())
        if not hidden:
            raise builder.refused(call, "adds more than a bar on the diagonal of pairs")
        builder.pairs[call.node] = replace(own, apart=True)

    return rule


def is_diagonal(mask: torch.Tensor) -> bool:
    """Tell whether a square of truths has them on its diagonal, all and alone."""
    square = mask.dim() == 2 and mask.shape[0] == mask.shape[1]
    return square and bool((mask == torch.eye(len(mask), dtype=torch.bool)).all())


def scaled(builder: Builder, call: Node, own: Pairs) -> int:
    """The rows, times the factor of every product."""
    if own.factor == 1:
        return own.rows
    return unary(builder, call, "affine", own.rows, own.factor)


def _picked(builder: Builder, call: Node, own: Pairs) -> None:
    """The cross-entropy of rows whose labels name a column of the same example."""
    labels = call["target"]
    plain = call.get("reduction", _MEAN) == _MEAN and call.get("weight") is None
    if call["self"] not in builder.pairs or labels not in builder.constants:
        raise builder.refused(call, "its targets do not name each example's partner")
    if not plain or call.get("label_smoothing", 0.0):
        raise builder.refused(call, "a weighted contrast of pairs")
    shift = _shift(builder, own, builder.constants.tensor(labels).tolist())
    count = builder.tensors[own.rows].shape[0]
    if shift is None or (own.apart and not shift):
        raise builder.refused(call, "its targets do not name each example's partner")
    rows = scaled(builder, call, own)
    terms = builder.step(
        *(call, "contrast", (rows, own.columns), (count,)),
        ints=(shift, int(own.apart)),
    )
    mean_loss(builder, call, terms, whole=False)


def _shift(builder: Builder, own: Pairs, labels: list[int]) -> int | None:
    """Steps from each row to its partner among its example's columns."""
    left, right, batch = own.row_layout, own.column_layout, builder.batch
    count, found = right.outer * right.inner, set()
    for at, label in enumerate(labels):
        if not 0 <= label < batch * count:
            return None
        (row, example), (column, other) = (
            _place(i, layout, batch) for i, layout in ((at, left), (label, right))
        )
        if example != other:
            return None
        found.add((column - row) % count)
    return found.pop() if len(found) == 1 else None


def _place(at: int, layout: Layout, batch: int) -> tuple[int, int]:
    """(number within its example, example) of a row."""
    outer, rest = divmod(at, batch * layout.inner)
    example, inner = divmod(rest, layout.inner)
    return outer * layout.inner + inner, example


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("contiguous", "clone", "alias", "to", "_to_copy"), _same),
    **dict.fromkeys(
        ("view", "reshape", "squeeze", "unsqueeze", "_unsafe_view"), _viewed
    ),
    **dict.fromkeys(("t", "numpy_T", "transpose", "permute"), _turned),
    "mul": _times(divided=False),
    "div": _times(divided=True),
    "masked_fill": _filled,
    "fill_diagonal": _diagonal,
    "add": _shifted(1.0),
    "sub": _shifted(-1.0),
    "cross_entropy_loss": _picked,
}
