"""Batches on smaller networks inside the own (slimmable networks, ordered dropout).

A device that holds a large mask trains a smaller member of the family too, instead of
its own network in some batches or beside it in each, so that the members that weaker
devices hold see its data (FjORD, arXiv:2102.13451; arXiv:1812.08928). Which member a
batch takes follows from the task's seed and the number of the step alone: a training
that a reboot cut short goes on with the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw, unit_gains
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Nested

__all__ = ["NestedBatches", "member_factors", "nested_batches"]

_DOMAIN = 0x4E57  # of the random words that choose members
_WORDS = float(1 << 64)

Factors: TypeAlias = dict[str, NDArray[np.float32]]  # by masked layer


def member_factors(
    rule: Nested, own: Mask, layers: Sequence[LayerShape], seed: int
) -> list[Factors]:
    """Each member as a factor on every value that the own mask keeps: (nnz,) a layer.

    0 where the member does not hold the weight, its unit's gain where it does.

    Raises:
        MaskMismatchError: If a member is not nested in the own mask.
        SparsityError: If a count or a box does not fit its layer.
    """
    found = []
    for member in rule.members:
        mask = draw(layers, member.counts, seed, member.boxes)
        if not mask.issubset(own):
            raise MaskMismatchError(
                "a member of the order's rule is not inside its mask",
                remedy="Use the same task file and version on coordinator and device.",
            )
        factors = {}
        for name in own:
            factor = np.zeros(own.counts[name], np.float32)
            factor[mask.within(own, name)] = unit_gains(
                own[name], mask[name], rule.gain
            )
            factors[name] = factor
        found.append(factors)
    return found


class NestedBatches:
    """Chooses the network of each batch and puts it in place.

    Args:
        model: Under the own mask, on any engine.
        share: Of the batches that take a member.
        factors: From `member_factors`.
        seed: The task's.
    """

    def __init__(
        self,
        model: TrainingModel,
        share: float,
        factors: Sequence[Factors],
        seed: int,
    ) -> None:
        self._share, self._seed = share, seed
        self._factors = [[f[n] for n in model.mask] for f in factors]

    def member(self, step: int) -> int | None:
        """Return the member that a step takes; None for the own network."""
        if not self._factors:
            return None
        words = np.random.Philox(key=[self._seed, _DOMAIN], counter=step).random_raw(2)
        if words[0] / _WORDS >= self._share:
            return None
        return int(words[1] % len(self._factors))

    @contextmanager
    def batch(self, session: TrainingSession, step: int) -> Iterator[None]:
        """Has the model be the step's network; gradients are of the own values after.

        What a member's batch changes in buffers, norm statistics above all, is put
        back: they are the own network's.
        """
        member = self.member(step)
        if member is None:
            yield
            return
        pairs = [*zip(session.kept.values(), self._factors[member], strict=True)]
        values = [kept.copy() for kept, _ in pairs]
        before = {name: buffer.copy() for name, buffer in session.buffers.items()}
        for kept, factor in pairs:
            kept *= factor  # noqa: PLW2901 - in place
        try:
            yield
        finally:
            for (kept, _), value in zip(pairs, values, strict=True):
                kept[...] = value
            gradients = session.gradients()
            for name, (_, factor) in zip(session.kept, pairs, strict=True):
                if name in gradients:
                    np.multiply(gradients[name], factor, out=gradients[name])
            for name, was in before.items():
                session.buffers[name][...] = was


def nested_batches(
    model: TrainingModel, order: TaskOrder, layers: Sequence[LayerShape]
) -> NestedBatches:
    """The networks of an order's batches; of any rule but `Nested` the own alone."""
    rule = order.rule if isinstance(order.rule, Nested) else Nested(share=0.5)
    factors = member_factors(rule, model.mask, layers, order.mask.seed)
    return NestedBatches(model, rule.share, factors, order.training.seed)
