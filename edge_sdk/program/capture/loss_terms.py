"""`LossTerms`: the losses of a graph, their factors, and what each is worth.

A graph ends in a sum of losses. Where something else is made of one, such as its root,
the loss becomes a value like any other: a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import fx

from edge_sdk.program.graph import Op

if TYPE_CHECKING:
    from edge_sdk.program.capture.context import Builder, Node

__all__ = ["LossTerms", "Worth"]

_IGNORED_BY_DEFAULT = -100

# (the loss is a sum over the batch and no mean) -> its value, the same for each sample.
Worth = Callable[[bool], int]


@dataclass(eq=False)
class LossTerms:
    """Losses by number.

    Attributes:
        scalars: Call -> the losses it is a sum of, and their factors.
        places: Of each loss among the operations.
        worth: How each becomes a value.
        summed: Those that are still a sum over the batch and no mean.
    """

    scalars: dict[fx.Node, dict[int, float]] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    worth: list[Worth] = field(default_factory=list)
    summed: set[int] = field(default_factory=set)

    def add(self, node: fx.Node, place: int, worth: Worth) -> None:
        """Takes the loss that a call is."""
        self.scalars[node] = {len(self.places): 1.0}
        self.places.append(place)
        self.worth.append(worth)

    def value(self, builder: Builder, call: Node, node: fx.Node) -> int:
        """The tensor of a call that is a sum of losses."""
        found: list[int] = []
        for number, factor in self.scalars[node].items():
            own = self.worth[number](number in self.summed)
            reals = (factor, 0.0)
            found.append(builder.step(call, "affine", (own,), (), reals=reals))
        total = found[0]
        for each in found[1:]:
            total = builder.step(call, "add", (total, each), ())
        return total

    def finish(
        self, builder: Builder, call: Node, terms: Mapping[int, float]
    ) -> list[Op]:
        """The operations, each loss with its factor; losses without one are left out.

        Raises:
            EngineError: If a loss grows with the batch.
        """
        if self.summed & set(terms):
            raise builder.refused(
                call, "a loss that is a sum over the batch, not a mean"
            )
        operations: list[Op | None] = list(builder.operations)
        for loss, at in enumerate(self.places):
            own = builder.operations[at]
            operations[at] = _with_factor(own, terms[loss]) if loss in terms else None
        return [o for o in operations if o is not None]


def _with_factor(own: Op, factor: float) -> Op:
    plain = factor == 1 and own.parameters in {(), (-1,)}
    if own.name == "squared_error" and plain:
        return replace(own, name="mse", reals=())
    if own.name == "class_loss" and plain and _is_default(own):
        return replace(own, name="cross_entropy", parameters=(), ints=(), reals=())
    return replace(own, reals=(*own.reals[:-1], factor))


def _is_default(loss: Op) -> bool:
    """A cross-entropy of logits that ignores no label and smoothes none."""
    return loss.ints[:2] == (_IGNORED_BY_DEFAULT, 0) and loss.reals[0] == 0
