"""Receipt of the coordinator's messages: check sender, repeats, and key changes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import UNSET

from edge_sdk.agent.parts import DeviceKeys, Identity
from edge_sdk.agent.publisher import COORDINATOR
from edge_sdk.agent.traffic import Marks
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.identity.signatures import Recent
from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Envelope, Header, decode
from edge_sdk.wire.messages import (
    Announce,
    Certificate,
    Install,
    Message,
    NextKey,
    Renew,
    Request,
    Revoked,
)

__all__ = ["OrderReceiver"]

log = logging.getLogger(__name__)

AGAIN = "was received before"


class OrderReceiver:
    """Filter for the coordinator's messages to this device; follows its keys.

    Args:
        me: Who the device is.
        device_keys: Its keys; None believes everybody, in a federation without any.
        transport: Where its topics are subscribed.
        say: Sends a message to the coordinator.
        age_s: (boot, seq) -> at most how long ago this life of the device said that;
            None if it never did.
        marks: What earlier lives have heard.
    """

    def __init__(
        self,
        me: Identity,
        device_keys: DeviceKeys | None,
        transport: Transport,
        say: Callable[[Message], None],
        age_s: Callable[[int, int], float | None],
        marks: Marks,
    ) -> None:
        self._me, self._device_keys, self._transport = me, device_keys, transport
        self._say = say
        self._age_s = age_s
        self._recent, self._announced = Recent(), marks.announced
        if marks.heard is not UNSET:
            self._recent.resume(COORDINATOR, *marks.heard)
        self._unheld: Header | None = None  # of the latest that no key fitted
        self.revoked: str | None = None  # why, if the coordinator says so
        if (
            device_keys is not None
        ):  # first: what follows may be signed with the next key
            self._await_next_key(device_keys)
        transport.subscribe(topics.announcement(me.federation))
        transport.subscribe(topics.inbox(me.federation, me.name))

    @property
    def marks(self) -> Marks:
        """Marks of the coordinator's latest messages; the journal keeps them."""
        return Marks(self._recent.latest(COORDINATOR) or UNSET, self._announced)

    def read(self, payload: bytes) -> tuple[Envelope, str] | None:
        """Decode a message of the coordinator; give it and why it is void, or "".

        Only an order to install is handed on although it does not hold any more: it is
        refused in words. Anything else that was said before is None.

        Raises:
            RemoteProtocolError: If it is no message, not signed, or to somebody else.
        """
        seal = self._device_keys.seal if self._device_keys else None
        self._unheld = None
        try:
            envelope = decode(payload, verify=self._verify if seal else None)
        except RemoteProtocolError:
            if self._is_of_another_key():
                return None
            raise
        header = envelope.header
        if (
            header.source != COORDINATOR
            or header.federation != self._me.federation
            or header.destination not in (self._me.name, "all")
        ):
            raise RemoteProtocolError(
                f"it goes from {header.source[:64]!r} to {header.destination[:64]!r}"
            )
        if seal is None or isinstance(envelope.message, NextKey):
            return envelope, ""  # of keys, the number decides
        if isinstance(envelope.message, Announce):
            return (envelope, "") if self._is_latest(header) else None
        why = self._late(header) if self._recent.take(header) else AGAIN
        if isinstance(envelope.message, Revoked) and why != AGAIN:
            return envelope, ""  # it is about a key, and stays true
        if not why or isinstance(envelope.message, Install):
            return envelope, why
        if why != AGAIN:
            log.info("ignored: %s %s", header.type, why)
        return None

    def tend(self, message: Message, *, stale: bool) -> bool:
        """Sees to a message about keys; whether this was one.

        Args:
            message: What was said.
            stale: Whether by a coordinator of an epoch that is over.
        """
        device_keys = self._device_keys
        if device_keys is None:
            return False
        match message:
            case Revoked(key, why):
                if key == device_keys.public_key:  # not one that we had before
                    self.revoked = why
            case NextKey(number, key):  # of any epoch: it is signed with the pinned key
                self._follow_key(device_keys, number, key)
            case Renew(why) if not stale:
                log.info("renewing the certificate: %s", why)
                self._say(Request(device_keys.request()))
            case Certificate(certificate) if not stale:
                if device_keys.install(certificate):
                    log.info("the new certificate is in use")
            case Renew() | Certificate():
                pass
            case _:
                return False
        return True

    def _verify(self, header: Header, signed: bytes, signature: bytes) -> bool:
        assert self._device_keys is not None  # noqa: S101 - only given with one
        held = self._device_keys.seal.verify(header, signed, signature)
        if not held:
            self._unheld = header
        return held

    def _is_of_another_key(self) -> bool:
        """Return whether a failed message names another signing key.

        While keys are replaced, a word under the next one can overtake its
        announcement, and one under the last is still retained: both come again.
        """
        header, device_keys = self._unheld, self._device_keys
        if header is None or device_keys is None or header.source != COORDINATOR:
            return False
        number = 0 if header.key is UNSET else header.key
        if number != device_keys.number:
            text = (
                "ignored: %s signed with key %d of the coordinator, which signs with %d"
            )
            log.info(text, header.type[:40], number, device_keys.number)
        return number != device_keys.number

    def _is_latest(self, header: Header) -> bool:
        """Return whether this is the coordinator's latest announcement so far."""
        latest = self._announced
        if latest is not UNSET and latest[0] == header.boot and header.seq < latest[1]:
            return False
        self._announced = header.boot, header.seq
        return True

    def _late(self, header: Header) -> str:
        """The reason why a message has expired; "" if it has not, or has no end."""
        if header.echo is UNSET:
            return ""
        age_s = self._age_s(*header.echo)
        if age_s is None:
            return "was said to an earlier start of this device"
        if header.valid_s is not UNSET and age_s > header.valid_s:
            return f"held for {header.valid_s} s and comes after {age_s:.0f} s"
        return ""

    def _follow_key(self, device_keys: DeviceKeys, number: int, key: bytes) -> None:
        if device_keys.adopt(number, key):
            log.info("the coordinator signs with key %d from now on", number)
            # It is said again at each connection, under a key that is no more believed.
            self._transport.unsubscribe(topics.next_key(self._me.federation, number))
            self._await_next_key(device_keys)
            # What came before this key was not believed: hear it again.
            self._transport.subscribe(topics.announcement(self._me.federation))

    def _await_next_key(self, device_keys: DeviceKeys) -> None:
        topic = topics.next_key(self._me.federation, device_keys.number + 1)
        self._transport.subscribe(topic)
