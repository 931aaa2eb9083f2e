"""A family of masks on disk: seed and structures, for masks that no seed gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from coordinator.algorithms.base import MaskFamily
from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.structure import decode_structure, encode_structure

__all__ = ["pack_family", "unpack_family"]


class _Masks(msgspec.Struct, frozen=True, tag="masks"):
    version: Literal[1]
    shared: list[tuple[float, bytes, bytes]]  # density, digest, structure
    own: dict[str, tuple[bytes, bytes]]


def pack_family(family: MaskFamily) -> bytes:
    """The bytes of masks that were chosen, densest first."""
    return pack(
        _Masks(
            version=1,
            shared=[(d, *_written(mask)) for d, mask in family.masks.items()],
            own={device: _written(mask) for device, mask in family.own.items()},
        )
    )


def unpack_family(path: Path, layers: Sequence[LayerShape]) -> MaskFamily:
    """The masks in a file.

    Raises:
        StateError: If it is damaged, or of another model.
    """
    try:
        found = unpack(path.read_bytes(), _Masks)
        masks = {
            density: decode_structure(structure, layers, digest)
            for density, digest, structure in found.shared
        }
        own = {
            device: decode_structure(structure, layers, digest)
            for device, (digest, structure) in found.own.items()
        }
    except (RemoteProtocolError, OSError) as error:
        raise StateError(
            f"{path} cannot be used: {error}",
            remedy="Restore the file, or start the run in a new folder.",
        ) from error
    return MaskFamily(tuple(layers), masks, None, own)


def _written(mask: Mask) -> tuple[bytes, bytes]:
    return mask.digest, encode_structure(mask)
