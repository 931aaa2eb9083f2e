"""Neighbours that the coordinator names: who they are, and whether their keys are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.secure.keys import is_usable, signed_keys
from edge_sdk.wire.secure.messages import SecurePeers, SecureRound

__all__ = ["IsSigned", "check_peers"]

IsSigned: TypeAlias = Callable[[bytes, bytes, bytes], bool]


def check_peers(
    federation: str,
    own: str,
    how: SecureRound,
    told: SecurePeers,
    verify: IsSigned | None,
) -> None:
    """Refuse a list of neighbours that could not keep a device's secrets.

    Args:
        federation: Its name.
        own: The device's name.
        how: What the order says.
        told: The list.
        verify: (Ed25519 key, signed bytes, signature) -> whether it holds; None takes
            keys without a signature.

    Raises:
        RemoteProtocolError: If a key is not its peer's, or too few could give back a
            secret.
    """
    names = [peer.name for peer in told.peers]
    if names != sorted(set(names)) or own not in names:
        raise RemoteProtocolError(
            "the list of neighbours repeats a name, or leaves this device out"
        )
    if not len(names) < 2 * told.threshold <= 2 * len(names):
        raise RemoteProtocolError(
            f"a threshold of {told.threshold} of {len(names)} is not more than half: "
            "a coordinator could learn both secrets of a device"
        )
    if len(names) < how.least:
        why = f"{len(names)} devices are fewer than the {how.least} of a sum"
        raise RemoteProtocolError(why)
    identities = [peer.identity for peer in told.peers if peer.identity]
    if len(identities) != len(set(identities)):
        raise RemoteProtocolError("two neighbours have one identity")
    for peer in told.peers:
        if not (is_usable(peer.share_key) and is_usable(peer.mask_key)):
            raise RemoteProtocolError(f"neighbour {peer.name} has no usable X25519 key")
        text = signed_keys(federation, how.id, peer.name, peer.share_key, peer.mask_key)
        if verify is not None and not verify(peer.identity, text, peer.signature):
            raise RemoteProtocolError(
                f"the keys of neighbour {peer.name} are not signed by it"
            )
