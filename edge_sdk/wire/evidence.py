"""Payloads of a warm-up: how many weights each layer kept, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.codec import pack, unpack

__all__ = [
    "Evidence",
    "pack_evidence",
    "unpack_evidence",
]


@dataclass(frozen=True)
class Evidence:
    """Result of a warm-up: the number of kept weights per layer, and nothing else."""

    counts: Mapping[str, int]


class _EvidenceBody(msgspec.Struct, frozen=True, tag="evidence"):
    version: Literal[1]
    counts: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


def pack_evidence(evidence: Evidence) -> bytes:
    """The payload of a warm-up: a few dozen bytes."""
    return pack(_EvidenceBody(version=1, counts=dict(evidence.counts)))


def unpack_evidence(payload: bytes, sizes: Mapping[str, int]) -> Evidence:
    """The evidence in a payload, checked against the layers' sizes.

    Raises:
        RemoteProtocolError: If it is malformed, names other layers, or counts more
            weights than a layer has.
    """
    body = unpack(payload, _EvidenceBody)
    if set(body.counts) != set(sizes):
        raise RemoteProtocolError("the evidence names other layers than the model's")
    for name, count in body.counts.items():
        if count > sizes[name]:
            raise RemoteProtocolError(
                f"layer {name} cannot keep {count} of {sizes[name]} weights"
            )
    return Evidence(body.counts)
