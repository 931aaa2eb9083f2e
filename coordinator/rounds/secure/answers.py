"""Messages of a device in a secure round: kept, or why they cannot be."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from msgspec import UNSET

from coordinator.rounds.secure.stages import SecureState
from edge_sdk.identity.signatures import is_signed
from edge_sdk.secure.keys import is_usable, signed_keys
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import Message
from edge_sdk.wire.secure.messages import (
    SecureKeys,
    SecureReady,
    SecureReveal,
    SecureShares,
)

__all__ = ["SecureAnswer", "keys_said", "read_answer"]


class SecureAnswer(NamedTuple):
    """A state that has taken something, and what of it has to be durable.

    Attributes:
        state: After it.
        kind: Of the ledger's row; empty for none.
        content: The row's.
        why: Why it cannot be; empty if it can.
    """

    state: SecureState
    kind: str = ""
    content: bytes = b""
    why: str = ""


def keys_said(
    state: SecureState,
    device: str,
    message: SecureKeys,
    federation: str,
    identities: Iterable[bytes] | None,
) -> SecureAnswer:
    """A device's keys; the first count.

    Args:
        state: Before.
        device: Whose they are.
        message: Its keys.
        federation: Its name.
        identities: The Ed25519 keys that it may sign with; None where there are none.
    """
    secure = state.orders[device].secure
    if device in state.keys or secure is None:
        return SecureAnswer(state)
    if not (is_usable(message.share_key) and is_usable(message.mask_key)):
        return SecureAnswer(state, why="its keys of the secure round are none")
    if secure.noise is not UNSET and message.noise is UNSET:
        why = "its flash-edge draws no noise, and the round asks for it: update it"
        return SecureAnswer(state, why=why)
    if secure.units is not UNSET and message.units is UNSET:
        why = "its flash-edge sums no masks by units, and the round has them: update it"
        return SecureAnswer(state, why=why)
    identity = b""
    if identities is not None:
        names = federation, secure.id, device
        text = signed_keys(*names, message.share_key, message.mask_key)
        held = [key for key in identities if is_signed(key, text, message.signature)]
        if not held:
            why = "the keys of its secure round are not signed by it"
            return SecureAnswer(state, why=why)
        identity = held[0]
    after = replace(state, keys={**state.keys, device: (message, identity)})
    return SecureAnswer(after, "keys", (identity or bytes(32)) + pack(message))


def read_answer(
    state: SecureState, device: str, message: Message, arrived: Collection[str]
) -> SecureAnswer:
    """Anything else that a device says; the first of a kind counts.

    Args:
        state: Before.
        device: Whose it is.
        message: What it says.
        arrived: Whose updates are in the sum; empty before that is fixed.
    """
    match message:
        case SecureReady():
            return SecureAnswer(replace(state, ready=state.ready | {device}))
        case SecureShares() if device not in state.shares:
            if why := state.misfit(device, message):
                return SecureAnswer(state, why=why)
            after = replace(state, shares={**state.shares, device: message.shares})
            return SecureAnswer(after, "shares", pack(message))
        case SecureReveal() if device in arrived and device not in state.revealed:
            if why := message.why or state.misfit(device, message):
                return SecureAnswer(state, why=why)
            given = {**state.revealed, device: message.shares}
            return SecureAnswer(replace(state, revealed=given), "reveal", pack(message))
        case _:
            return SecureAnswer(state)
