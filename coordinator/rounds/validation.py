"""The gate before the sum: an update passes it, or its sender learns why it did not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.rounds.model_check import ROUNDING
from edge_sdk.errors import RemoteProtocolError, two_sentences
from edge_sdk.sparse import Mask
from edge_sdk.wire.evidence import GRADIENT, Evidence, entries_beside, unpack_evidence
from edge_sdk.wire.messages import Offer, TaskOrder
from edge_sdk.wire.rules import (
    CandidateLosses,
    Measured,
    Regrow,
    Score,
    Swat,
    TopK,
    WarmUp,
)
from edge_sdk.wire.secure.fixed_point import Ring, masked_vector
from edge_sdk.wire.structure import largest_structure
from edge_sdk.wire.values import (
    Values,
    largest_payload,
    unpack_moved,
    unpack_values,
)

__all__ = [
    "Refusal",
    "check_offer",
    "check_payload",
    "impossible_change",
]

LEAST_LEFT = 0.01  # of a layer: ten prunings by a falling quarter leave a third
_FLOAT32_MAX = float(np.finfo(np.float32).max)
SLACK_BYTES = 64 * 1024  # for names and headers: nothing beside the values is large


@dataclass(frozen=True)
class Refusal:
    """The reason why an update is refused, and the remedy for the device's owner."""

    why: str
    remedy: str = "Run the same task file and version of flash-edge as the coordinator."

    @property
    def told(self) -> str:
        """Reason and remedy in one text, as a receipt holds it."""
        return two_sentences(self.why, self.remedy)[:500]


_BROKEN = "Lower the learning rate, or look for broken examples on the device."
_IMPOSSIBLE = "Run the shipped training; look for broken examples or a damaged memory."
_DAMAGED = "If it comes again, check the device's memory and disk."


def check_offer(
    offer: Offer,
    order: TaskOrder,
    *,
    max_examples: int,
    dense: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> Refusal | None:
    """Check an offer before a byte of the update is requested.

    Args:
        offer: What the device offers.
        order: What it was asked.
        max_examples: The device's own count when it said hello: it cannot weigh more.
        dense: The global model's dense remainder, which comes back with the update.
        sizes: Weight name to number of weights, where the mask may move.
    """
    if offer.mask_digest != order.mask.digest and not order.moves:
        return Refusal("the update was made with another mask than the task's")
    if offer.codec != order.codec:
        return Refusal(f"codec {offer.codec!r} was not agreed, {order.codec!r} was")
    # A warm-up's evidence is smaller than the values.
    flat = {name: (size,) for name, size in sizes.items()}
    whole = {**dense, **entries_beside(order.rule, flat)}
    most = largest_payload(order.codec, order.mask.counts, whole) + SLACK_BYTES
    if order.moves:
        # As many values, but blocks may fall otherwise: a scale more per layer.
        most += largest_structure(sizes) + 64 * len(sizes)
    if offer.manifest.size > most:
        return Refusal(f"{offer.manifest.size} bytes; the task takes at most {most}")
    if not all(math.isfinite(v) for v in (offer.norm, *offer.metrics.values())):
        return Refusal("its norm or a metric is not finite", _BROKEN)
    if not 1 <= offer.examples <= max_examples:
        return Refusal(
            f"{offer.examples} examples; its HELLO said {max_examples}",
            "Start the device again: it then says how many it has now.",
        )
    return None


def check_payload(
    payload: bytes,
    order: TaskOrder,
    mask: Mask,
    dense: Mapping[str, NDArray[Any]],
    *,
    examples: int,
) -> Values | Evidence | Ring | Refusal:
    """The update itself, or why it does not pass.

    Args:
        payload: The whole blob, its digest already checked.
        order: The task it answers.
        mask: The task's mask.
        dense: The global model's dense remainder: names and shapes must be its own, and
            what the change makes of it must be possible.
        examples: What its device says that it trained on.
    """
    try:
        if order.secure is not None:  # all that can be looked at is its length
            return masked_vector(payload, order.mask.digest, order.secure)
        if isinstance(order.rule, WarmUp | CandidateLosses):
            return _evidence(payload, order.rule, mask)
        if order.moves:
            moved, change = unpack_moved(payload, mask, codec=order.codec)
            wrong = _moved_too_far(order, mask, moved)
            if wrong:
                return Refusal(wrong)
        else:
            change = unpack_values(payload, mask, codec=order.codec)
    except RemoteProtocolError as error:
        broken = "not finite" in str(error)
        return Refusal(str(error), _BROKEN if broken else _DAMAGED)
    if isinstance(order.rule, Score):
        dense = {}  # scores of the masked weights, and nothing else
    if isinstance(order.rule, Measured):
        beside = entries_beside(order.rule, {n: mask[n].shape for n in mask})
        dense = {**dense, **beside}
        if order.rule.squared and _has_negative(change):
            return Refusal("a square of its gradients is below 0", _IMPOSSIBLE)
    batches = order.training.epochs * max(examples, 1)  # micro-batches of one example
    return _misfit(change, dense, batches) or change


def _evidence(
    payload: bytes, rule: WarmUp | CandidateLosses, mask: Mask
) -> Evidence | Refusal:
    """A warm-up's evidence; its rule moves weights and keeps their number."""
    sizes = {name: mask[name].size for name in mask}
    if isinstance(rule, CandidateLosses):
        return unpack_evidence(payload, sizes, candidates=rule.count)
    evidence = unpack_evidence(payload, sizes)
    kept, wanted = sum(evidence.counts.values()), mask.nnz
    if kept != wanted:
        return Refusal(f"the warm-up kept {kept} weights; its mask has {wanted}")
    return evidence


def _has_negative(change: Values) -> bool:
    told = (a for n, a in change.dense.items() if n.startswith(GRADIENT))
    return any((array < 0).any() for array in told)


def _misfit(
    change: Values, dense: Mapping[str, NDArray[Any]], batches: int
) -> Refusal | None:
    """The refusal of dense entries that do not fit the model, or make it impossible."""
    if set(change.dense) != set(dense):
        return Refusal("the dense remainder names other entries than the model's")
    for name, array in change.dense.items():
        other = dense[name]  # a payload's entries are float32 or int64
        if array.shape != other.shape or (array.dtype.kind == "f") != (
            other.dtype.kind == "f"
        ):
            return Refusal(f"entry {name} has another shape or type than the model's")
    wrong = impossible_change(dense, change.dense, batches=batches)
    return Refusal(wrong, _IMPOSSIBLE) if wrong else None


def _moved_too_far(order: TaskOrder, mask: Mask, moved: Mask) -> str:
    """The reason why the order's rule cannot give a mask; empty if it can.

    No rule all but empties a layer of some size, one that keeps the largest weights
    over all layers leaves one for each unit; and regrowing replaces a share of each
    layer in its place.
    """
    rule = order.rule
    if isinstance(rule, Swat | TopK):
        share = rule.sent if isinstance(rule, Swat) else rule.density
        wanted = int(share * mask.numel + 1e-9)
        if moved.nnz != wanted:
            return f"its mask keeps {moved.nnz} weights; the task asks for {wanted}"
    for name in mask:
        before, after = mask.counts[name], moved.counts[name]
        short = LEAST_LEFT * before > max(after, 1)
        if isinstance(rule, TopK):
            short = min(before, len(mask[name])) > after
        if short:
            return f"its mask leaves {after} of {before} weights of layer {name}"
        if isinstance(order.rule, Regrow) and after != before:
            return f"its mask keeps {after} of layer {name}; regrowing keeps {before}"
    return ""


def impossible_change(
    base: Mapping[str, NDArray[Any]],
    change: Mapping[str, NDArray[Any]],
    *,
    batches: int,
) -> str:
    """The first entry that a change would make impossible, in words; empty if none.

    Values of a state have meanings that their type does not say: a variance is not
    negative, a counter of batches counts up by at most the batches there were, an
    integer fits its type, a float is finite. Names are PyTorch's.

    Args:
        base: The dense remainder that the change is to.
        change: Of the same names, shapes and kinds.
        batches: Most batches that the device can have trained on.
    """
    passes = _are_in_range(base, change)
    for name, step in change.items():
        if step.size:
            floats = step.dtype.kind == "f"
            if floats and passes and not name.endswith("running_var"):
                continue
            why = (
                _impossible_floats(name, base[name], step)
                if floats
                else _impossible_integers(name, base[name], step, batches)
            )
            if why:
                return f"entry {name} {why}"
    return ""


def _are_in_range(
    base: Mapping[str, NDArray[Any]], change: Mapping[str, NDArray[Any]]
) -> bool:
    """Return whether all floats stay within float32; one look at all is cheaper."""
    names = [n for n, step in change.items() if step.dtype.kind == "f"]
    if not names:
        return True
    after = np.concatenate([base[n].reshape(-1) for n in names], dtype=np.float64)
    after += np.concatenate([change[n].reshape(-1) for n in names])
    return bool(np.abs(after).max(initial=0.0) <= _FLOAT32_MAX)


def _impossible_floats(
    name: str, base: NDArray[Any], step: NDArray[np.floating[Any]]
) -> str:
    after = base.astype(np.float64) + step
    if float(np.abs(after).max()) > _FLOAT32_MAX:
        return "would pass the largest float32"
    if name.endswith("running_var"):
        least = -ROUNDING * np.maximum(np.abs(base), 1.0)
        if (after < least).any():
            return f"would be a negative variance, {float(after.min()):.3g}"
    return ""


def _impossible_integers(
    name: str, base: NDArray[Any], step: NDArray[Any], batches: int
) -> str:
    low, high = int(step.min()), int(step.max())
    if name.endswith("num_batches_tracked") and not 0 <= low <= high <= batches:
        counted = low if low < 0 else high
        return f"would count {counted} batches; from 0 to {batches} were asked for"
    if not _stays_in_range(base, step):
        return f"would leave the range of {base.dtype}"
    return ""


def _stays_in_range(base: NDArray[Any], step: NDArray[Any]) -> bool:
    """Return whether every sum fits the entry's dtype, which may be bool."""
    whole = base.dtype.kind == "b"
    low, high = (0, 1) if whole else _limits(base.dtype)
    # Python's integers: 64 bits and a change of 64 bits would wrap around.
    pairs = np.nonzero(step.reshape(-1))[0]
    now, by = base.reshape(-1)[pairs].tolist(), step.reshape(-1)[pairs].tolist()
    return all(low <= int(a) + b <= high for a, b in zip(now, by, strict=True))


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    room = np.iinfo(dtype)
    return int(room.min), int(room.max)
