"""One device's part of one secure round: pure steps from a state to the next.

Rule 1. A state is made durable before what it says is sent; asked again, the same is
        said again.
Rule 2. Of one device either the share of its seed is revealed or that of its key: the
        first list of who arrived binds, and another one is refused.
Rule 3. More than half of the holders give back a secret. So a coordinator that tells
        holders different lists never has enough of both.
Rule 4. One vector is masked, ever: two of them under the same masks would tell their
        difference.
Rule 5. One noise is drawn for an order, ever: its secret is durable before the keys are
        said, so a device that starts again draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.secure.discrete_gaussian import own_noise
from edge_sdk.secure.keys import Agree, agreeing, expanded, mask_key, public_of
from edge_sdk.secure.known import known_after, with_known
from edge_sdk.secure.masks import add_pairs, stream
from edge_sdk.secure.peers import IsSigned, check_peers
from edge_sdk.secure.round_state import DeviceRound, begin, keys_of
from edge_sdk.secure.shares import read_share, share_out
from edge_sdk.wire.secure.fixed_point import Ring
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecurePeers,
    SecureReveal,
    SecureUnmask,
)

__all__ = [
    "DeviceRound",
    "begin",
    "keys_of",
    "mask",
    "reveal",
    "shares",
    "unread",
    "with_shares",
]

OUT, ARRIVED, DROPPED = 0, 1, 2  # fates of an update


def shares(
    state: DeviceRound,
    told: SecurePeers,
    verify: IsSigned | None,
    agree: Agree | None = None,
) -> DeviceRound:
    """The state with shares of its secrets for the peers that were told.

    Args:
        state: Before or after.
        told: Who holds them.
        verify: (Ed25519 key, signed bytes, signature) -> whether it holds; None takes
            keys without a signature.
        agree: Of its share key, which remembers; None makes one.

    Raises:
        RemoteProtocolError: If a key is not its peer's, too few could give back a
            secret, or other peers were told before.
    """
    known = known_after(state.known, told.peers)
    told = replace(told, peers=with_known(state.known, told.peers))
    if state.peers:
        if (state.peers, state.threshold) != (told.peers, told.threshold):
            raise RemoteProtocolError(
                "the coordinator names two different lists of neighbours for one round"
            )
        return state
    check_peers(state.federation, state.name, state.how, told, verify)
    mine = told.peers[[peer.name for peer in told.peers].index(state.name)]
    expected = public_of(state.share_private), public_of(state.mask_key)
    if (mine.share_key, mine.mask_key) != expected:
        raise RemoteProtocolError("the coordinator names other keys as this one's")
    own = told.peers.index(mine)
    agree = agree or agreeing(state.share_private)
    ends = agree, state.how.id, own, told.peers, told.threshold
    sent, part = share_out(*ends, state.seed + state.mask_private)
    held = [part if at == own else b"" for at in range(len(told.peers))]
    told_of = replace(state, peers=told.peers, threshold=told.threshold, known=known)
    return replace(told_of, sent=sent, held=held)


def with_shares(
    state: DeviceRound, told: SecureDelivery, agree: Agree | None = None
) -> DeviceRound:
    """The state with the shares that its peers have sent; `agree` is as of `shares`.

    A peer's share that cannot be read, altered or false, is none: `unread` names it.
    The peer's masks are taken away by the others' shares, if enough are left.

    Raises:
        RemoteProtocolError: If too few take part, or others were told before.
    """
    if not state.peers:
        raise RemoteProtocolError("shares arrived before the neighbours' keys")
    if state.levels:
        if state.levels != told.levels:
            raise RemoteProtocolError(
                "the coordinator names two different cohorts for one round"
            )
        return state
    count = len(state.peers)
    if len(told.shares) != count or len(told.levels) != count:
        raise RemoteProtocolError(
            f"shares of {len(told.shares)} neighbours; there are {count}"
        )
    if not 1 <= told.levels[state.own] <= len(state.how.sizes):
        raise RemoteProtocolError("the cohort leaves this device out")
    most = max(state.threshold, state.how.least)
    inside = count - told.levels.count(0)
    if inside < most:
        raise RemoteProtocolError(
            f"{inside} devices take part; at least {most} have to"
        )
    held = list(state.held)
    agree = agree or agreeing(state.share_private)
    for at, peer in enumerate(state.peers):
        if not told.levels[at] or peer.name == state.name:
            continue
        held[at] = read_share(
            *(agree, peer, state.how.id, state.name),
            *(told.shares[at], 2 * state.how.secret),
        )
    return replace(state, held=held, levels=told.levels)


def unread(state: DeviceRound) -> list[str]:
    """Names of the peers that take part and whose shares cannot be read here."""
    said = zip(state.peers, state.levels, state.held, strict=True)
    return [peer.name for peer, level, held in said if level and not held]


def mask(state: DeviceRound, vector: Ring) -> tuple[DeviceRound, Ring]:
    """The masked vector, its part of the noise in it, and the state that remembers it.

    Args:
        state: With its peers' shares.
        vector: Of the update; what is not summed in this round is left out.

    Raises:
        StateError: If another vector was masked before.
    """
    bits, level = state.how.bits, state.levels[state.own]
    size = state.how.sizes[level - 1]
    if (noise := state.how.noise) is not UNSET:
        own = own_noise(state.noise, state.how.id, size, noise.part)
        vector = vector[:size] + own.astype(vector.dtype)  # modulo: numpy wraps
    digest = hashlib.sha256(vector.tobytes()).digest()
    if state.masked and state.masked != digest:
        raise StateError(
            f"task {state.task_id} gave another update than before, and one is masked",
            remedy="Nothing is to be done: the next round has other masks.",
        )
    masked = vector[:size] + stream(expanded(state.seed, state.how.id), size, bits)
    add_pairs(masked, state.name, _pairs(state, level), bits)
    return replace(state, masked=digest), masked


def _pairs(state: DeviceRound, level: int) -> Sequence[tuple[str, bytes, int]]:
    private = state.mask_key
    return [
        (
            peer.name,
            mask_key(private, peer.mask_key, state.how.id),
            state.how.sizes[min(level, theirs) - 1],
        )
        for peer, theirs in zip(state.peers, state.levels, strict=True)
        if theirs and peer.name != state.name
    ]


def reveal(state: DeviceRound, told: SecureUnmask) -> tuple[DeviceRound, SecureReveal]:
    """Shares of what has to be taken from the sum, and the state that remembers which.

    Raises:
        RemoteProtocolError: If another list was answered, it contradicts the cohort, or
            too few arrived.
    """
    if not state.masked:
        raise RemoteProtocolError("this device has sent no update of the round")
    if state.fates and state.fates != told.fates:
        raise RemoteProtocolError(
            "the coordinator names two different lists of survivors for one round"
        )
    fits = len(told.fates) == len(state.levels) and all(
        fate in (ARRIVED, DROPPED) if level else fate == OUT
        for fate, level in zip(told.fates, state.levels, strict=True)
    )
    if not fits or told.fates[state.own] != ARRIVED:
        raise RemoteProtocolError("the list of survivors is not one of the cohort")
    arrived, most = told.fates.count(ARRIVED), max(state.threshold, state.how.least)
    if arrived < most:
        raise RemoteProtocolError(f"{arrived} updates arrived; at least {most} have to")
    size = state.how.secret
    parts = slice(0, 0), slice(0, size), slice(size, None)  # by fate
    pairs = zip(state.held, told.fates, strict=True)
    given = [held[parts[fate]] for held, fate in pairs]
    return replace(state, fates=told.fates), SecureReveal(state.task_id, given)
