"""Shares of a device's secrets: derived by who holds them where they can be, else sent.

All but one of the shares that a secret takes may be any random bytes. They are drawn
from the key that the device has with a holder, who draws the same: half of the shares
are never sent, and the polynomial is as random as one of drawn coefficients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.secure.keys import Agree, decrypt, derived_share, encrypt
from edge_sdk.secure.shamir import split
from edge_sdk.wire.secure.messages import SecurePeer

__all__ = ["derived_places", "read_share", "share_out"]


def derived_places(own: int, threshold: int, count: int) -> frozenset[int]:
    """Places of the holders that derive a device's shares: those after it, in a circle.

    Args:
        own: The device's place among its holders.
        threshold: Shares that give its secrets back.
        count: Its holders.

    Example:
        >>> sorted(derived_places(3, 3, 5))
        [0, 4]
    """
    return frozenset((own + step) % count for step in range(1, threshold))


def share_out(
    agree: Agree,
    round_id: bytes,
    own: int,
    holders: Sequence[SecurePeer],
    threshold: int,
    secret: bytes,
) -> tuple[list[bytes], bytes]:
    """Share a secret out: what each holder is sent, empty where derived; the own share.

    Args:
        agree: Of the device's key that shares are encrypted with.
        round_id: The round's.
        own: The device's place among its holders.
        holders: Who they are.
        threshold: Shares that give the secret back.
        secret: Of the device.

    Raises:
        RemoteProtocolError: If a holder's key is none.
    """
    count, name = len(holders), holders[own].name
    given = {}
    for at in derived_places(own, threshold, count):
        ends = agree, holders[at].share_key, round_id
        given[at + 1] = derived_share(*ends, (name, holders[at].name), len(secret))
    parts = split(secret, given, count)
    sent = [b""] * count
    for at, holder in enumerate(holders):
        if at != own and at + 1 not in given:
            ends = agree, holder.share_key, round_id
            sent[at] = encrypt(*ends, (name, holder.name), parts[at])
    return sent, parts[own]


def read_share(
    agree: Agree,
    sender: SecurePeer,
    round_id: bytes,
    name: str,
    sent: bytes,
    size: int,
) -> bytes:
    """The share that a device holds of another; empty if it cannot be read.

    Args:
        agree: As of `share_out`.
        sender: Whose share.
        round_id: The round's.
        name: The device's.
        sent: What the sender has encrypted to it; empty for a share to be derived.
        size: Bytes of a share.
    """
    way = sender.name, name
    with contextlib.suppress(RemoteProtocolError):
        if not sent:
            return derived_share(agree, sender.share_key, round_id, way, size)
        share = decrypt(agree, sender.share_key, round_id, way, sent)
        return share if len(share) == size else b""
    return b""
