"""Identities of neighbours that device and coordinator know from earlier rounds.

Whoever knows a key is not sent it again. The device says a digest of what it knows; the
coordinator compares it with what it has told, and tells all where they differ: a device
that has lost its disk says none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

from msgspec.msgpack import encode
from msgspec.structs import replace

from edge_sdk.wire.secure.messages import MOST_HOLDERS, SecurePeer

__all__ = ["Known", "known_after", "known_digest", "with_known", "without_known"]

Known: TypeAlias = Mapping[str, bytes]  # device -> its Ed25519 key


def known_digest(known: Known) -> bytes:
    """The digest that two sides compare; empty where nothing is known."""
    return sha256(encode(sorted(known.items()))).digest() if known else b""


def without_known(known: Known, peers: Sequence[SecurePeer]) -> list[SecurePeer]:
    """The list of neighbours without identities that the device knows."""
    return [
        replace(peer, identity=b"") if known.get(peer.name) == peer.identity else peer
        for peer in peers
    ]


def with_known(known: Known, peers: Sequence[SecurePeer]) -> list[SecurePeer]:
    """The list of neighbours with the identities that were left out."""
    return [
        peer if peer.identity else replace(peer, identity=known.get(peer.name, b""))
        for peer in peers
    ]


def known_after(known: Known, peers: Sequence[SecurePeer]) -> dict[str, bytes]:
    """Identities that are known after a list of neighbours, the same on both sides.

    A list with all identities is a new beginning.

    Args:
        known: Before.
        peers: As they were sent.
    """
    whole = {peer.name: peer.identity for peer in with_known(known, peers)}
    whole = {name: identity for name, identity in whole.items() if identity}
    if all(peer.identity for peer in peers):
        return whole
    found = {**known, **whole}
    return found if len(found) <= MOST_HOLDERS else whole
