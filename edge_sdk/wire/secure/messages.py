"""Messages of secure aggregation: keys, shares, and what is revealed of them.

``keys -> peers -> shares -> delivery -> ready``, then the update as of any task, and
after the last of them ``unmask -> reveal``. Lists of one device are in the order of the
peers that it was told.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from edge_sdk.wire.named import Digest, TaskId, Why
from edge_sdk.wire.rules import Member

__all__ = [
    "MOST_HOLDERS",
    "SecureDelivery",
    "SecureKeys",
    "SecureMessage",
    "SecureNoise",
    "SecurePeer",
    "SecurePeers",
    "SecureReady",
    "SecureReveal",
    "SecureRound",
    "SecureShares",
    "SecureUnmask",
]

MOST_HOLDERS = 255  # shares are points of GF(256) other than 0
_Share = Annotated[bytes, Meta(max_length=128)]
_Shares: TypeAlias = Annotated[list[_Share], Meta(max_length=MOST_HOLDERS)]
_Levels: TypeAlias = Annotated[bytes, Meta(max_length=MOST_HOLDERS)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class SecureNoise(Struct, frozen=True, array_like=True):
    """Noise of a round whose devices each draw a part of it.

    Discrete Gaussian of deviation `part`, in steps, on each number of its vector. A sum
    is read of at least `survivors` devices, whose parts together are what the run
    promises, and is shared out over `cohort` devices, however many are in it. `longest`
    is the most that the squares of a device's own numbers come to.
    """

    part: Annotated[float, Meta(gt=0, le=1 << 15)]
    survivors: Annotated[int, Meta(ge=2)]
    cohort: Annotated[int, Meta(ge=1)]
    longest: Annotated[int, Meta(ge=1)]


class SecureRound(Struct, frozen=True):
    """Part of an order: how its update is masked.

    `id` is drawn for the round. A value between ``-clip`` and ``clip`` becomes a whole
    number from ``-steps`` to ``steps``; sums are taken modulo 2 to the power of `bits`.
    `sizes` is how many values the masks of the family have, smallest first, up to the
    device's own; `members` draws all but the last of these masks. A device with
    `most_examples` counts in full, with half of them half. A sum of fewer than `least`
    devices is not opened. A change longer than `norm` is scaled down; 0 for no bound.
    `secret` is the bytes of a device's seed, and of what its mask key is made of.
    `noise` has each device draw a part of the sum's noise; absent for none. `units` is
    how many units each size keeps, of each dense entry whose units a size cuts; absent
    where none are cut.
    """

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    bits: Literal[16, 32]
    steps: Annotated[int, Meta(ge=1, lt=1 << 31)]
    clip: Annotated[float, Meta(gt=0)]
    most_examples: Annotated[int, Meta(ge=1)]
    least: Annotated[int, Meta(ge=2)]
    sizes: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1)]
    members: list[Member] = []
    norm: Annotated[float, Meta(ge=0)] = 0.0
    secret: Literal[16, 32] = 32
    noise: SecureNoise | UnsetType = UNSET
    units: dict[str, list[Annotated[int, Meta(ge=0)]]] | UnsetType = UNSET


class SecureKeys(Struct, frozen=True, tag="secure-keys"):
    """Device to coordinator: its X25519 keys of one round, signed.

    `seed` is the digest of the seed of its own mask: a wrong seed does not fit it.
    `signature` is empty where devices have no identity. `noise` is there where the
    order asks for noise: it says that this build draws it; and `units` where the order
    names units: this build lays values out by them. `known` is the digest of the
    identities that need not be sent to it again; absent for none.
    """

    task_id: TaskId
    share_key: Digest
    mask_key: Digest
    seed: Digest
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    noise: Literal[True] | UnsetType = UNSET
    units: Literal[True] | UnsetType = UNSET
    known: Digest | UnsetType = UNSET


class SecurePeer(Struct, frozen=True, array_like=True):
    """One holder of a device's shares: name, Ed25519 key, and its keys of the round.

    `identity` is empty where the device knows it, or devices have none.
    """

    name: _Name
    identity: Annotated[bytes, Meta(max_length=32)]
    share_key: Digest
    mask_key: Digest
    signature: Annotated[bytes, Meta(max_length=64)]


class SecurePeers(Struct, frozen=True, tag="secure-peers"):
    """Coordinator to device: who holds its shares, itself among them, by name.

    `threshold` of them give back a secret.
    """

    task_id: TaskId
    threshold: Annotated[int, Meta(ge=2)]
    peers: Annotated[list[SecurePeer], Meta(max_length=MOST_HOLDERS)]


class SecureShares(Struct, frozen=True, tag="secure-shares"):
    """Device to coordinator: each peer's shares, encrypted to it.

    Its own is empty, and so are those that a peer derives from the key they share.
    """

    task_id: TaskId
    shares: _Shares


class SecureDelivery(Struct, frozen=True, tag="secure-delivery"):
    """Coordinator to device: what its peers have encrypted to it.

    `levels` is the size, counted from 1, that each peer sends; 0 for one that is out.
    The device's own is at its own place.
    """

    task_id: TaskId
    shares: _Shares
    levels: _Levels


class SecureReady(Struct, frozen=True, tag="secure-ready"):
    """Device to coordinator: it has its peers' shares, and can mask its update."""

    task_id: TaskId


class SecureUnmask(Struct, frozen=True, tag="secure-unmask"):
    """Coordinator to device: what became of its peers' updates.

    0 for one that is out, 1 for one whose update is in the sum, 2 for one without.
    """

    task_id: TaskId
    fates: _Levels


class SecureReveal(Struct, frozen=True, tag="secure-reveal", omit_defaults=True):
    """Device to coordinator: its share of the seed of each peer that is in the sum.

    Of each peer that is not, the share of its key. `why` says why it reveals nothing.
    """

    task_id: TaskId
    shares: _Shares = []
    why: Why = ""


SecureMessage: TypeAlias = (
    SecureKeys
    | SecurePeers
    | SecureShares
    | SecureDelivery
    | SecureReady
    | SecureUnmask
    | SecureReveal
)
