"""Update of an order: the change on its mask, and how it is packed."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edge_sdk.sparse import LayerShape, Mask, draw, top_k
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import TrainingResult
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.dense import is_whole
from edge_sdk.wire.messages import Offer, TaskOrder
from edge_sdk.wire.secure.fixed_point import pack_ring, to_fixed
from edge_sdk.wire.secure.layout import flat
from edge_sdk.wire.secure.messages import SecureRound
from edge_sdk.wire.values import Values, pack_values, unpack_values

__all__ = [
    "PackedUpdate",
    "change_of",
    "largest_change",
    "moved_change",
    "packed",
    "packed_change",
]


@dataclass(frozen=True)
class PackedUpdate:
    """A finished task: what to offer and the payload behind it.

    Attributes:
        offer: For the coordinator.
        payload: Alike.
        memory: What the device remembers if this update counts; empty for nothing.
    """

    offer: Offer
    payload: bytes
    memory: bytes = b""


def change_of(model: TrainingModel, start: Values) -> Values:
    """Difference between a model under a frozen mask and its starting values."""
    return Values(
        model.mask.digest,
        _difference(model.values(), start.masked),
        _difference(model.dense(), start.dense),
    )


def largest_change(
    model: TrainingModel, start: Values, sent: Mapping[str, int], key: str
) -> tuple[Mask, Values]:
    """The mask of each layer's largest weights at the end, and the change on it.

    Args:
        model: Trained; of what its mask does not keep nothing is returned.
        start: Where it started.
        sent: Weight name to how many of its weights.
        key: Orders equal weights.
    """
    after = model.values()
    places = {n: top_k(np.abs(w), sent[n], f"{key} {n}") for n, w in after.items()}
    patterns = {n: np.array(model.mask[n]) for n in model.mask}
    for name, pattern in patterns.items():
        pattern[model.mask[name]] = places[name]
    largest = Mask(patterns)
    moved = _difference(after, start.masked)
    change = Values(
        largest.digest,
        {n: moved[n][places[n]] for n in moved},
        _difference(model.dense(), start.dense),
    )
    return largest, change


def moved_change(
    model: TrainingModel,
    before: Mapping[str, NDArray[np.float32]],
    moved: Mask,
    start: Values,
) -> Values:
    """The change on a mask that has moved; what was not kept began at 0.

    Args:
        model: Trained under a full mask.
        before: Its maskable weights at the start, flat.
        moved: The mask at the end.
        start: Whose dense remainder it started from.
    """
    after, dense = model.values(), model.dense()
    return Values(
        moved.digest,
        {n: (after[n] - before[n])[moved.flat(n)] for n in moved},
        _difference({n: dense[n] for n in start.dense}, start.dense),
    )


def packed(
    order: TaskOrder,
    mask: Mask,
    payload: bytes,
    norm: float,
    outcome: TrainingResult,
    seconds: float,
) -> PackedUpdate:
    """A task's payload with the offer that tells of it.

    Args:
        order: What was asked.
        mask: What the payload stands on.
        payload: Packed.
        norm: Of the change in it, 0 for evidence.
        outcome: What training did.
        seconds: What the whole order took.
    """
    told = {"loss": outcome.loss} if order.secure is None else {}
    offer = Offer(
        task_id=order.id,
        manifest=manifest_of(payload, order.chunk_size),
        mask_digest=mask.digest,
        codec=order.codec,
        examples=outcome.examples,
        norm=norm,
        metrics={
            **told,
            "steps": float(outcome.steps),
            "training_s": outcome.seconds,
            "seconds": seconds,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    )
    return PackedUpdate(offer, payload)


def packed_change(
    order: TaskOrder,
    change: Values,
    mask: Mask,
    examples: int = 1,
    *,
    structure: bool = False,
) -> tuple[bytes, float]:
    """The payload of a change, and the norm of what is sent; 0 of what is masked.

    Args:
        order: What was asked.
        change: What training moved.
        mask: What it stands on.
        examples: What the device trained on.
        structure: Whether the mask's structure travels along.
    """
    if order.secure is not None:
        return _in_ring(order, order.secure, change, mask, examples), 0.0
    payload = pack_values(
        change, mask, codec=order.codec, rng=_rounding(order), structure=structure
    )
    return payload, unpack_values(payload, mask).norm()


def _in_ring(
    order: TaskOrder, how: SecureRound, change: Values, mask: Mask, examples: int
) -> bytes:
    """A change as whole numbers, not masked yet; entries of whole numbers stay here."""
    layers = [LayerShape(name, mask[name].shape) for name in mask]
    seed = order.mask.seed
    smaller = [draw(layers, m.counts, seed, m.boxes) for m in how.members]
    floats = sorted(n for n, a in change.dense.items() if a.dtype.kind == "f")
    units = {} if how.units is UNSET else how.units
    values = flat(change, smaller, mask, floats, units)
    weight = min(examples, how.most_examples) / how.most_examples
    return pack_ring(to_fixed(values, how, weight, _rounding(order)), mask.digest)


def _rounding(order: TaskOrder) -> np.random.Generator:
    """A restarted device rounds the same update the same way."""
    return np.random.default_rng([*b"rounding", order.round_no, order.training.seed])


def _difference(
    after: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {name: _wide(after[name]) - _wide(before[name]) for name in after}


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    """Booleans and integers as they travel: their difference would wrap around."""
    return array.astype(np.int64) if is_whole(array.dtype) else array
