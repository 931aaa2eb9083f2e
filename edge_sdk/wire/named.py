"""Parts that several messages share: blobs and masks by digest, and plain fields."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

__all__ = ["Count", "Digest", "Holdout", "Manifest", "MaskRecipe", "TaskId", "Why"]

Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
TaskId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Why: TypeAlias = Annotated[str, Meta(max_length=500)]


class Manifest(Struct, frozen=True):
    """Sizes and digests of a blob: SHA-256 of the whole and of each chunk.

    2 048 chunks of 64 KiB are 128 MiB; their digests still fit one packet. Only an
    update may be in larger chunks, where its order says so.
    """

    sha256: Digest
    size: Annotated[int, Meta(ge=1, le=1 << 27)]
    chunk_size: Annotated[int, Meta(ge=1, le=1 << 18)]
    chunks: Annotated[list[Digest], Meta(min_length=1, max_length=2048)]


class MaskRecipe(Struct, frozen=True, omit_defaults=True):
    """Recipe from which a device makes a mask; either way it compares digests.

    Without `structure` it draws the mask from `seed` and `counts`. A mask that is not
    frozen cannot be drawn: `structure` is then the blob of its CSR structure, which
    travels once per digest, and `counts` says how much of it each layer keeps.
    `boxes` has the output units and input columns that a layer keeps where a mask cuts
    units; a layer that it does not name keeps them all.
    """

    seed: Count
    counts: dict[str, Count]
    digest: Digest
    structure: Manifest | None = None
    boxes: dict[str, tuple[Count, Count]] = {}


class Holdout(Struct, frozen=True):
    """Test examples of a device: the share held out, and the seed of their choice."""

    share: Annotated[float, Meta(gt=0, lt=1)]
    seed: Count
