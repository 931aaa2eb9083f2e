"""Identities that devices of secure rounds are not told again."""

from __future__ import annotations

from dataclasses import replace

from coordinator.ledger import Ledger
from coordinator.rounds.secure.stages import SecureState
from edge_sdk.secure.known import known_after, known_digest

__all__ = ["told_before"]


def told_before(ledger: Ledger, state: SecureState) -> SecureState:
    """The state with what each device knows by its own word, and what it is told noted.

    What is noted may be lost, or say more than a device has heard: then its digest is
    another one, and in the next round it is told all.

    Args:
        ledger: Where it is noted.
        state: With its neighbours.
    """
    noted = ledger.known_identities(state.graph)
    known = {
        device: own
        for device, own in noted.items()
        if state.keys[device][0].known == known_digest(own)
    }
    after = replace(state, known=known)
    told = {d: known_after(known.get(d, {}), after.peers(d).peers) for d in state.graph}
    ledger.note_identities({device: own for device, own in told.items() if own})
    return after
