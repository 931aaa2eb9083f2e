"""Training of the smaller networks inside a device's own, beside its own.

A device that holds a large mask trains the smaller members of the family too, so that
these see its data: one in some batches (ordered dropout, FjORD, arXiv:2102.13451), or
all in each (slimmable networks' sandwich, arXiv:1812.08928).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.training.engine import TrainingSession
from edge_sdk.training.local import Backward, own_network
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Member, Nested, Sandwich

__all__ = ["backward_of", "drawn_member", "member_patterns", "one_member", "sandwich"]

_DOMAIN = 0x4E57  # of the random words that choose members
_WORDS = float(1 << 64)

Patterns: TypeAlias = dict[str, NDArray[np.bool_]]  # by masked layer


def member_patterns(
    members: Sequence[Member], own: Mask, layers: Sequence[LayerShape], seed: int
) -> list[Patterns]:
    """Each member as the values of the own mask that it holds: (nnz,) a layer.

    Raises:
        MaskMismatchError: If a member is not nested in the own mask.
        SparsityError: If a count or a box does not fit its layer.
    """
    found = []
    for member in members:
        mask = draw(layers, member.counts, seed, member.boxes)
        if not mask.issubset(own):
            raise MaskMismatchError(
                "a member of the order's rule is not inside its mask",
                remedy="Use the same task file and version on coordinator and device.",
            )
        held = {name: np.zeros(own.counts[name], np.bool_) for name in own}
        for name in own:
            held[name][mask.within(own, name)] = True
        found.append(held)
    return found


def drawn_member(share: float, members: int, seed: int, step: int) -> int | None:
    """The member that a step takes; None for the own network.

    It follows from the task's seed and the number of the step alone: a training that a
    reboot cut short goes on with the same.
    """
    words = np.random.Philox(key=[seed, _DOMAIN], counter=step).random_raw(2)
    return int(words[1] % members) if words[0] / _WORDS < share else None


@contextmanager
def _inside(session: TrainingSession, held: Patterns) -> Iterator[None]:
    """Has the model be a member's network; gradients are of the own values after.

    What the member's batch changes in buffers, norm statistics above all, is put back:
    they are the own network's.
    """
    kept = [*session.kept.items()]
    values = [value.copy() for _, value in kept]
    before = {name: buffer.copy() for name, buffer in session.buffers.items()}
    for name, value in kept:
        value *= held[name]  # noqa: PLW2901 - in place
    try:
        yield
    finally:
        for (_, value), own in zip(kept, values, strict=True):
            value[...] = own
        for name, gradient in session.gradients().items():
            if name in held:
                np.multiply(gradient, held[name], out=gradient)
        for name, was in before.items():
            session.buffers[name][...] = was


def one_member(
    share: float,
    patterns: Sequence[Patterns],
    seed: int,
    session: TrainingSession,
    step: int,
    index: NDArray[np.int64],
) -> float:
    """The gradients of one network of the order's: the own, or a member drawn.

    Args:
        share: Of the steps that take a member.
        patterns: The members, from `member_patterns`.
        seed: The task's.
        session: Of the model under the own mask.
        step: Its number in the task.
        index: Positions of the batch's examples.

    Returns:
        That network's mean loss.
    """
    member = drawn_member(share, len(patterns), seed, step)
    if member is None:
        return session.backward(index)
    with _inside(session, patterns[member]):
        return session.backward(index)


def sandwich(
    patterns: Sequence[Patterns],
    session: TrainingSession,
    _step: int,
    index: NDArray[np.int64],
) -> float:
    """Gradients of a batch in all networks; a value takes the smallest one's.

    Where a network's gradient is exactly 0, above all where it does not hold the value,
    that of the next larger counts.

    Args:
        patterns: The members, largest first.
        session: Of the model under the own mask.
        index: Positions of the batch's examples.

    Returns:
        The own network's mean loss.
    """
    loss = session.backward(index)
    found: Mapping[str, NDArray[Any]] = {
        name: gradient.copy() for name, gradient in session.gradients().items()
    }
    for held in patterns:
        with _inside(session, held):
            session.backward(index)
        for name, gradient in session.gradients().items():
            np.copyto(found[name], gradient, where=gradient != 0)
    for name, gradient in session.gradients().items():
        gradient[...] = found[name]
    return loss


def backward_of(order: TaskOrder, own: Mask, layers: Sequence[LayerShape]) -> Backward:
    """Function that leaves a batch's gradients in the session, as an order says.

    Raises:
        MaskMismatchError: If a member is not nested in the own mask.
    """
    match order.rule:
        case Nested(share=share, members=members) if members:
            patterns = member_patterns(members, own, layers, order.mask.seed)
            return partial(one_member, share, patterns, order.training.seed)
        case Sandwich(members=members) if members:
            patterns = member_patterns(members, own, layers, order.mask.seed)
            return partial(sandwich, patterns)
        case _:
            return own_network
