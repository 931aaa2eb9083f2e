"""State of a device's part of one secure round, and how it begins."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

import msgspec
from msgspec import UNSET

from edge_sdk.secure.keys import KEY, expanded, public_of, seed_digest, signed_keys
from edge_sdk.secure.known import Known, known_digest
from edge_sdk.wire.secure.messages import SecureKeys, SecurePeer, SecureRound

__all__ = ["DeviceRound", "begin", "keys_of"]

Random: TypeAlias = Callable[[int], bytes]


class DeviceRound(msgspec.Struct, frozen=True):
    """A device's secrets of one round, and what it has said.

    Attributes:
        task_id: Its task.
        federation: Alike for all of its peers.
        name: The device's.
        how: What the order says.
        share_private: Of the key that shares are encrypted with.
        mask_private: What the key that pairwise masks are agreed with is made of.
        seed: What its own mask is made of.
        peers: Who holds its shares, itself among them; empty before they are told.
        threshold: How many of them give back a secret.
        sent: What was encrypted to each.
        held: Each peer's shares of seed and key that are held here.
        levels: Size that each peer sends, from 1; 0 for one that is out.
        masked: SHA-256 of the one vector that was masked.
        fates: What became of each peer's update, as the coordinator said it first.
        noise: What its part of the noise is drawn from; empty where none is asked for.
        known: Identities that need not be sent again.
        known_said: Digest of those that it knew when the round began.
    """

    task_id: str
    federation: str
    name: str
    how: SecureRound
    share_private: bytes
    mask_private: bytes
    seed: bytes
    peers: list[SecurePeer] = []
    threshold: int = 0
    sent: list[bytes] = []
    held: list[bytes] = []
    levels: bytes = b""
    masked: bytes = b""
    fates: bytes = b""
    noise: bytes = b""
    known: dict[str, bytes] = {}
    known_said: bytes = b""

    @property
    def own(self) -> int:
        """The device's place among its peers."""
        return [peer.name for peer in self.peers].index(self.name)

    @property
    def mask_key(self) -> bytes:
        """The private key that pairwise masks are agreed with."""
        return expanded(self.mask_private, self.how.id)


def begin(
    task_id: str,
    federation: str,
    name: str,
    how: SecureRound,
    random: Random,
    known: Known = MappingProxyType({}),
) -> DeviceRound:
    """A round with new keys and a new seed.

    Args:
        task_id: The order's.
        federation: Its name.
        name: The device's.
        how: What the order says.
        random: Gives so many bytes that nobody can guess.
        known: Identities from rounds before.
    """
    share, pairs, seed = (random(size) for size in (KEY, how.secret, how.secret))
    noise = random(KEY) if how.noise is not UNSET else b""
    given = task_id, federation, name, how, share, pairs, seed
    told = known_digest(known)
    return DeviceRound(*given, noise=noise, known=dict(known), known_said=told)


def keys_of(state: DeviceRound, sign: Callable[[bytes], bytes] | None) -> SecureKeys:
    """The public keys of a device, signed if it has an identity."""
    share, mask = public_of(state.share_private), public_of(state.mask_key)
    signed = signed_keys(state.federation, state.how.id, state.name, share, mask)
    return SecureKeys(
        *(state.task_id, share, mask, seed_digest(state.seed, state.how.id)),
        sign(signed) if sign else b"",
        UNSET if state.how.noise is UNSET else True,
        UNSET if state.how.units is UNSET else True,
        state.known_said or UNSET,
    )
