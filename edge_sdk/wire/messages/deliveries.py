"""Messages of deliveries: a model bundle for a board, and which one is live."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_sdk.wire.named import Count, Digest, Manifest, Why

__all__ = ["Install", "Running"]


class Install(Struct, frozen=True, tag="install", omit_defaults=True):
    """Coordinator to device: make this bundle the live model of the board.

    `no` numbers deliveries, `blob` is the packed bundle, `digest` the SHA-256 of its
    manifest, `key` the Ed25519 key that must have signed it; without one none need.
    """

    no: Count
    blob: Manifest
    digest: Digest
    key: Digest | None = None


class Running(Struct, frozen=True, tag="running", omit_defaults=True):
    """Device to coordinator: which bundle is live, and what became of a delivery.

    `live` is the SHA-256 of the manifest of the bundle that runs, `label` its task and
    round in words. `no` and `verdict` are of the latest delivery that has ended here.
    """

    live: Digest | None
    label: Annotated[str, Meta(max_length=200)]
    no: Count = 0
    verdict: Literal["", "live", "failed", "refused"] = ""
    why: Why = ""
