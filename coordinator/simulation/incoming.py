"""What a round gets back: updates and evidence, through the federation's own gate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.validation import (
    Refusal,
    check_offer,
    check_payload,
    read_update,
)
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.codec import pack
from edge_sdk.wire.evidence import Evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import Values

__all__ = ["checked", "contribution", "mean_loss", "received_bytes"]


def checked(
    order: TaskOrder, done: PackedUpdate, base: Model, mask: Mask, max_examples: int
) -> Values | Evidence:
    """What a device made of its order, if the gate lets it pass.

    Args:
        order: What it was asked.
        done: What it made of it.
        base: The model it started from.
        mask: The mask it started on.
        max_examples: Most examples that any device has.

    Raises:
        RunError: If it does not pass: here nobody can be at fault but us.
    """
    sizes = {layer: base.mask[layer].size for layer in base.mask}
    refused = check_offer(
        done.offer, order, max_examples=max_examples, dense=base.dense, sizes=sizes
    )
    found = refused or check_payload(
        done.payload, order, mask, base.dense, examples=done.offer.examples
    )
    if isinstance(found, Refusal):
        raise RunError(f"task {order.id} gave an update that is no good: {found.why}")
    return found


def contribution(
    device: str,
    order: TaskOrder,
    done: PackedUpdate,
    base: Model,
    family: MaskFamily,
    max_examples: int,
) -> Contribution:
    """A device's update as the aggregate takes it.

    Raises:
        RunError: As `checked`.
    """
    start = family.of(device, order.density)
    checked(order, done, base, start, max_examples)
    mask, change = read_update(done.payload, start)
    return Contribution(device, mask, done.offer.examples, change)


def received_bytes(packed: Sequence[PackedUpdate]) -> int:
    """Offers and payloads, as packed for the wire."""
    return sum(len(pack(done.offer)) + len(done.payload) for done in packed)


def mean_loss(packed: Sequence[PackedUpdate]) -> float:
    """Mean training loss over devices, each counting the same."""
    return float(np.mean([done.offer.metrics["loss"] for done in packed]))
