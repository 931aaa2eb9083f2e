"""Signed offers of the devices at work, kept until their updates are accepted."""

from __future__ import annotations

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import SignedOffer
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.identity.signatures import verifier
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import Offer

__all__ = ["SignedOffers"]

KEPT = 4  # offers of one task: as first sent, in other chunks, with a new count


class SignedOffers:
    """Each device's latest offers, as they came.

    Args:
        identities: Whose certificates the devices have.
    """

    def __init__(self, identities: IdentityRegistry) -> None:
        self._identities = identities
        self._latest: dict[str, list[tuple[Offer, bytes]]] = {}

    def heard(self, device: str, offer: Offer, packet: bytes) -> None:
        """Keep an offer; those of the device's other tasks are dropped."""
        kept = self._latest.get(device, [])
        same = [one for one in kept if one[0].task_id == offer.task_id]
        self._latest[device] = [*same, (offer, packet)][-KEPT:]

    def of(self, device: str, offer: Offer) -> SignedOffer | None:
        """The device's word on an update that is accepted; its offers are dropped.

        Args:
            device: Its name.
            offer: What it offered; in chunks of another size it is the same word.
        """
        for known, packet in reversed(self._latest.pop(device, [])):
            same = known.manifest.sha256 == offer.manifest.sha256
            if same and known.examples == offer.examples:
                return self._signed(device, packet)
        return None

    def _signed(self, device: str, packet: bytes) -> SignedOffer | None:
        def signed(key: bytes) -> bool:
            try:
                decode(packet, verify=verifier(lambda _: (key,)))
            except RemoteProtocolError:
                return False
            return True

        person = self._identities.people[device]
        if signed(person.last_key):
            return SignedOffer(packet, person.certificate)
        # It renewed its key after the offer: that one's certificate is in the store.
        certificate = self._identities.log_keys().of_device(device, signed)
        return SignedOffer(packet, certificate) if certificate else None
