"""Whose message it is, whether it is new, and what it says of keys."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_sdk.agent.parts import Badge, Identity
from edge_sdk.agent.voice import COORDINATOR
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.identity.signatures import Recent
from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Envelope, decode
from edge_sdk.wire.messages import (
    Announce,
    Certificate,
    Message,
    NextKey,
    Renew,
    Request,
    Revoked,
)

__all__ = ["Reception"]

log = logging.getLogger(__name__)


class Reception:
    """Lets in what the coordinator said to this device, once, and sees to keys.

    Args:
        me: Who the device is.
        badge: Its keys; None believes everybody, in a federation without any.
        transport: Where its topics are subscribed.
        say: Sends a message to the coordinator.
    """

    def __init__(
        self,
        me: Identity,
        badge: Badge | None,
        transport: Transport,
        say: Callable[[Message], None],
    ) -> None:
        self._me, self._badge, self._transport, self._say = me, badge, transport, say
        self._recent = Recent()
        self.revoked: str | None = None  # why, if the coordinator says so
        if badge is not None:  # first: what follows may be signed with the next key
            self._await_next_key(badge)
        transport.subscribe(topics.announcement(me.federation))
        transport.subscribe(topics.inbox(me.federation, me.name))

    def read(self, payload: bytes) -> Envelope | None:
        """What the coordinator says; None if it was said before.

        Raises:
            RemoteProtocolError: If it is no message, not signed, or to somebody else.
        """
        seal = self._badge.seal if self._badge else None
        envelope = decode(payload, verify=seal.verify if seal else None)
        header = envelope.header
        if (
            header.source != COORDINATOR
            or header.federation != self._me.federation
            or header.destination not in (self._me.name, "all")
        ):
            raise RemoteProtocolError(
                f"it goes from {header.source[:64]!r} to {header.destination[:64]!r}"
            )
        retained = isinstance(envelope.message, Announce | NextKey)
        if seal and not retained and not self._recent.take(header):
            return None  # delivered twice, or sent again by somebody else
        return envelope

    def tend(self, message: Message, *, stale: bool) -> bool:
        """Sees to a message about keys; whether this was one.

        Args:
            message: What was said.
            stale: Whether by a coordinator of an epoch that is over.
        """
        badge = self._badge
        if badge is None:
            return False
        match message:
            case Revoked(key, why):
                if key == badge.public_key:  # not one that we had before
                    self.revoked = why
            case NextKey(number, key):  # of any epoch: it is signed with the pinned key
                self._follow_key(badge, number, key)
            case Renew(why) if not stale:
                log.info("renewing the certificate: %s", why)
                self._say(Request(badge.request()))
            case Certificate(certificate) if not stale:
                if badge.install(certificate):
                    log.info("the new certificate is in use")
            case Renew() | Certificate():
                pass
            case _:
                return False
        return True

    def _follow_key(self, badge: Badge, number: int, key: bytes) -> None:
        if badge.adopt(number, key):
            log.info("the coordinator signs with key %d from now on", number)
            self._await_next_key(badge)
            # What came before this key was not believed: hear it again.
            self._transport.subscribe(topics.announcement(self._me.federation))

    def _await_next_key(self, badge: Badge) -> None:
        topic = topics.next_key(self._me.federation, badge.number + 1)
        self._transport.subscribe(topic)
