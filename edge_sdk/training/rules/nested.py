"""Training of the smaller networks inside a device's own, beside its own.

A device that holds a large mask trains the smaller members of the family too, so that
these see its data: one in some batches (ordered dropout, FjORD, arXiv:2102.13451), or
all in each (slimmable networks' sandwich, arXiv:1812.08928).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.tasks.task import Examples
from edge_sdk.training.engine import ModelSource, TrainingSession
from edge_sdk.training.local import Backward, own_network
from edge_sdk.training.rules.inner_network import InnerNetwork
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Member, Nested, Sandwich
from edge_sdk.wire.values import Values

__all__ = ["backward_of", "drawn_member", "member_masks", "one_member", "sandwich"]

_DOMAIN = 0x4E57  # of the random words that choose members
_WORDS = float(1 << 64)


def member_masks(
    members: Sequence[Member], own: Mask, layers: Sequence[LayerShape], seed: int
) -> list[Mask]:
    """The masks of an order's members.

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
        found.append(mask)
    return found


def drawn_member(share: float, members: int, seed: int, step: int) -> int | None:
    """The member that a step takes; None for the own network.

    It follows from the task's seed and the number of the step alone: a training that a
    reboot cut short goes on with the same.
    """
    words = np.random.Philox(key=[seed, _DOMAIN], counter=step).random_raw(2)
    return int(words[1] % members) if words[0] / _WORDS < share else None


def one_member(
    share: float,
    members: Sequence[InnerNetwork],
    seed: int,
    session: TrainingSession,
    step: int,
    index: NDArray[np.int64],
) -> float:
    """The gradients of one network of the order's: the own, or a member drawn.

    Args:
        share: Of the steps that take a member.
        members: Of the order.
        seed: The task's.
        session: Of the model under the own mask.
        step: Its number in the task.
        index: Positions of the batch's examples.

    Returns:
        That network's mean loss.
    """
    member = drawn_member(share, len(members), seed, step)
    if member is None:
        return session.backward(index)
    loss, gradients = members[member].backward(session, index)
    session.take(gradients)
    return loss


def sandwich(
    members: Sequence[InnerNetwork],
    session: TrainingSession,
    _step: int,
    index: NDArray[np.int64],
) -> float:
    """Gradients of a batch in all networks; a value takes the smallest one's.

    Where a network's gradient is exactly 0, above all where it does not hold the value,
    that of the next larger counts. In a model with batch norm a value takes the sum:
    each network has a signal of its own scale there, and the larger ones, which learn
    faster, need not wait for the smallest.

    Args:
        members: Of the order, largest first.
        session: Of the model under the own mask.
        index: Positions of the batch's examples.

    Returns:
        The own network's mean loss.
    """
    loss = session.backward(index)
    found = {name: gradient.copy() for name, gradient in session.gradients().items()}
    summed = any(name.endswith("running_var") for name in session.buffers)
    for member in members:
        _, gradients = member.backward(session, index)
        for name, gradient in gradients.items():
            if summed:
                found[name] += gradient
            else:
                np.copyto(found[name], gradient, where=gradient != 0)
    session.take(found)
    return loss


def backward_of(
    order: TaskOrder,
    own: Mask,
    start: Values,
    models: ModelSource,
    examples: Examples,
) -> Backward:
    """Function that leaves a batch's gradients in the session, as an order says.

    Args:
        order: Its rule names the members.
        own: The device's mask.
        start: The order's base.
        models: Has the own model ready.
        examples: The device's own.

    Raises:
        MaskMismatchError: If a member is not nested in the own mask.
    """
    rule = order.rule
    if not isinstance(rule, Nested | Sandwich) or not rule.members:
        return own_network
    masks = member_masks(rule.members, own, models.layers, order.mask.seed)
    drawn = [(m, x.boxes) for m, x in zip(masks, rule.members, strict=True)]
    inside = models.inside(drawn, examples)
    members = [InnerNetwork(m, own, x) for m, x in zip(masks, inside, strict=True)]
    for member in members:
        member.load(start)
    if isinstance(rule, Sandwich):
        return partial(sandwich, members)
    return partial(one_member, rule.share, members, order.training.seed)
