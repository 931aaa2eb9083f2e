"""Entries of a model that stay apart: they are in no base and in no update.

The frozen ones, and the first values of the personal ones, travel once as a blob that
orders name by its digest. A device's own values of the personal ones never travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.codec import pack_large, unpack
from edge_sdk.wire.dense import Entry, all_from_wire, to_wire

__all__ = ["Apart", "pack_apart", "pack_own", "unpack_apart", "unpack_own"]

_Entries = Annotated[dict[str, Entry], msgspec.Meta(max_length=1 << 16)]

_Ranks = Annotated[
    dict[str, Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]],
    msgspec.Meta(max_length=1 << 16),
]


@dataclass(frozen=True, eq=False)
class Apart:
    """The entries that stay apart, with values.

    Attributes:
        frozen: ``state_dict`` name to values that no training moves.
        personal: Name to the values that a device begins with.
        adapters: Name of a layer to the rank of the low-rank adapter that it has.
    """

    frozen: Mapping[str, NDArray[Any]]
    personal: Mapping[str, NDArray[Any]]
    adapters: Mapping[str, int] = field(default_factory=dict)


class _ApartBody(msgspec.Struct, frozen=True, tag="apart", omit_defaults=True):
    version: Literal[1]
    frozen: _Entries
    personal: _Entries
    adapters: _Ranks = {}


class _OwnBody(msgspec.Struct, frozen=True, tag="own"):
    version: Literal[1]
    personal: _Entries
    memory: bytes  # of the order's rule


def pack_apart(apart: Apart) -> bytes:
    """The blob of what stays apart; its values are exact."""
    frozen, personal = _packed(apart.frozen), _packed(apart.personal)
    ranks = {name: apart.adapters[name] for name in sorted(apart.adapters)}
    return pack_large(
        _ApartBody(version=1, frozen=frozen, personal=personal, adapters=ranks)
    )


def unpack_apart(blob: bytes) -> Apart:
    """Entries that stay apart, out of their blob; none of an empty one.

    Raises:
        RemoteProtocolError: If it is malformed, or an entry is in both parts.
    """
    if not blob:
        return Apart({}, {})
    body = unpack(blob, _ApartBody)
    both = sorted(set(body.frozen) & set(body.personal))
    if both:
        raise RemoteProtocolError(f"entry {both[0]} is frozen and personal at once")
    frozen, personal = _unpacked(body.frozen), _unpacked(body.personal)
    return Apart(frozen, personal, body.adapters)


def pack_own(personal: Mapping[str, NDArray[Any]], memory: bytes) -> bytes:
    """A device's own values and the memory of its rule, for its disk."""
    return pack_large(_OwnBody(version=1, personal=_packed(personal), memory=memory))


def unpack_own(content: bytes) -> tuple[dict[str, NDArray[Any]], bytes]:
    """The device's own values and the memory of its rule, as `pack_own` had them.

    Raises:
        RemoteProtocolError: If it is malformed.
    """
    body = unpack(content, _OwnBody)
    return _unpacked(body.personal), body.memory


def _packed(entries: Mapping[str, NDArray[Any]]) -> dict[str, Entry]:
    return {
        n: to_wire(n, np.asarray(entries[n]), "fp32", None) for n in sorted(entries)
    }


def _unpacked(entries: Mapping[str, Entry]) -> dict[str, NDArray[Any]]:
    return all_from_wire(entries)
