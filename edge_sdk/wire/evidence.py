"""Evidence on its way: payloads of a warm-up, and entries beside a round's update.

The latter are dense entries whose names begin with a dot, as no entry of a model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.rules import LocalRule, Measured

__all__ = [
    "GRADIENT",
    "Evidence",
    "block_of",
    "entries_beside",
    "pack_evidence",
    "unpack_evidence",
]


@dataclass(frozen=True)
class Evidence:
    """Result of a warm-up: a number for each layer or candidate, and nothing else.

    Attributes:
        counts: Weight name to number of kept weights; empty for candidates' losses.
        losses: Of each candidate mask.
    """

    counts: Mapping[str, int]
    losses: Sequence[float] = ()


GRADIENT = ".gradient."  # before the name of the weight


class _EvidenceBody(msgspec.Struct, frozen=True, tag="evidence", omit_defaults=True):
    version: Literal[1]
    counts: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    losses: Annotated[list[float], msgspec.Meta(max_length=64)] = []


def pack_evidence(evidence: Evidence) -> bytes:
    """The payload of a warm-up: a few dozen bytes."""
    losses = [float(loss) for loss in evidence.losses]
    return pack(_EvidenceBody(version=1, counts=dict(evidence.counts), losses=losses))


def unpack_evidence(
    payload: bytes, sizes: Mapping[str, int], *, candidates: int = 0
) -> Evidence:
    """The evidence in a payload, checked against what was asked for.

    Args:
        payload: What `pack_evidence` made.
        sizes: Weight name to number of weights.
        candidates: Of how many masks the losses were asked for; 0 for counts.

    Raises:
        RemoteProtocolError: If it is malformed, names other layers, counts more weights
            than a layer has, or has not a finite loss for each candidate.
    """
    body = unpack(payload, _EvidenceBody)
    if len(body.losses) != candidates or not np.isfinite(body.losses).all():
        raise RemoteProtocolError(
            f"the evidence has {len(body.losses)} losses; {candidates} finite ones "
            "were asked for"
        )
    if candidates:
        sizes = {}
    if set(body.counts) != set(sizes):
        raise RemoteProtocolError("the evidence names other layers than the model's")
    for name, count in body.counts.items():
        if count > sizes[name]:
            raise RemoteProtocolError(
                f"layer {name} cannot keep {count} of {sizes[name]} weights"
            )
    return Evidence(body.counts, tuple(body.losses))


def block_of(rule: Measured, names: Sequence[str]) -> list[str]:
    """The layers that a rule looks at.

    Example:
        >>> block_of(Measured(block=1, blocks=2), ["a", "b", "c"])
        ['c']
    """
    blocks = min(rule.blocks, len(names))
    return [str(n) for n in np.array_split(list(names), blocks)[rule.block % blocks]]


def entries_beside(
    rule: LocalRule, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Dense entries that an update by this rule has beside the model's, all 0.

    Args:
        rule: Of the order.
        shapes: Weight name to shape, in the model's order.
    """
    if not isinstance(rule, Measured):
        return {}
    zero = np.float32(0)
    names = block_of(rule, list(shapes))
    return {f"{GRADIENT}{n}": np.broadcast_to(zero, shapes[n]) for n in names}
