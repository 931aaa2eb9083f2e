"""Receipt of devices' messages: check the sender, drop repeats, answer renewals.

Without an `IdentityRegistry` this is a federation of one machine: there are no keys,
and the name in a message is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from coordinator.identity.enrolled import EnrolledDevice
from coordinator.identity.registry import IdentityRegistry
from coordinator.protocol.announcements import CoordinatorAnnouncements
from coordinator.protocol.display_text import showable
from coordinator.protocol.publisher import Publisher
from coordinator.rate_limit import Seldom
from edge_sdk.errors import IdentityError, RemoteProtocolError
from edge_sdk.identity.signatures import Recent
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Envelope, decode
from edge_sdk.wire.messages import (
    Certificate,
    Data,
    Renew,
    Request,
    Revoked,
    Status,
    Wait,
)

__all__ = ["MessageReceiver"]

log = logging.getLogger(__name__)
EXPLAIN_S = 60.0  # a device that is not believed is told why, at most so often
REMIND_S = 10.0  # between two requests to renew, should the first be lost
EXPLAINED = 1000  # names that this is remembered for: they may be made up
ENROLLED = 1 << 20  # names of enrolled devices, which nobody can make up
TWIN_S = 60.0  # between two complaints about one device
TWIN_WORDS = 6  # more than the last words of a process that ended
TWIN = (
    "two processes have this device's identity and cut each other off, as copied cards "
    "do. Give each board a token of its own: flash-edge enroll TOKEN"
)
OVER = (
    "ask the operator for a token (flash-coordinator enroll RUN --new NAME), delete "
    "the identity folder, then run flash-edge enroll TOKEN"
)
_OF_DEVICES = topics.UploadTopic, topics.StatusTopic
UNSIGNED = (
    "your messages are not signed with a key that is enrolled here: ask the operator "
    "for a token, then run flash-edge enroll TOKEN"
)


class MessageReceiver:
    """Reads what arrives.

    Args:
        federation: The federation's name.
        identities: Its identities; None for one machine without any.
        publisher: Sends.
        clock: Monotonic seconds.

    Attributes:
        announcements: Those of this run's coordinators.
    """

    def __init__(
        self,
        federation: str,
        identities: IdentityRegistry | None,
        publisher: Publisher,
        clock: Callable[[], float],
    ) -> None:
        self._federation, self._identities = federation, identities
        self._publisher, self._clock = publisher, clock
        self._recent = Recent()
        self.announcements = CoordinatorAnnouncements(federation, identities, publisher)
        self._explained = Seldom(EXPLAIN_S, EXPLAINED)
        self._reminded = Seldom(REMIND_S, ENROLLED)
        self._twins = Seldom(TWIN_S, ENROLLED)
        self._deaf: set[str] = set()

    def read(
        self, delivery: ReceivedMessage, topic: topics.Topic | None = None
    ) -> tuple[str, Envelope] | None:
        """Decode a packet into its device and envelope; None if nothing is due.

        Raises:
            RemoteProtocolError: If it is no message, is not signed by whom it names, or
                is not for us.
            StateError: If a newer coordinator of this run has announced itself.
        """
        topic = topic or topics.parse(delivery.topic, self._federation)
        if not delivery.payload:
            return None
        if isinstance(topic, topics.AnnouncementTopic):
            self.announcements.read(delivery.payload)
            return None
        if isinstance(topic, _OF_DEVICES):
            self._refuse_revoked(topic)
        seal = self._identities.seal if self._identities is not None else None
        try:
            envelope = decode(delivery.payload, verify=seal.verify if seal else None)
        except RemoteProtocolError as error:
            if isinstance(topic, topics.UploadTopic):
                self._explain(topic.device)
            over = self._over(topic)
            if over is not None:
                raise RemoteProtocolError(over) from error
            raise
        device = _sender(topic, envelope, self._federation)
        if not isinstance(envelope.message, Data):  # bytes, and an id that is looked up
            envelope = _showable(envelope)
        if seal and not self._is_new(device, envelope):
            return None  # delivered twice, or sent again by somebody else
        if seal and isinstance(envelope.message, Request):
            self._renew(device, envelope.message)
            return None
        deaf = self._is_deaf(device, envelope.header.epoch)
        return None if deaf else (device, envelope)

    def _is_new(self, device: str, envelope: Envelope) -> bool:
        """Return whether a message was not received before.

        A status is retained and is its own will, so it comes again, and late: which of
        one life's are news is for `presence.is_news` to say.
        """
        header = envelope.header
        if isinstance(envelope.message, Status):
            return not self._recent.is_over(header)
        if not self._recent.take(header):
            self._look_for_twin(device)
            return False
        self._publisher.heard(device, header.boot, header.seq)
        if not isinstance(envelope.message, Request):
            self._remind(device)
        return True

    def _person(self, device: str) -> EnrolledDevice | None:
        known = {} if self._identities is None else self._identities.people
        return known.get(device)

    def is_revoked(self, device: str) -> bool:
        """Return whether a device was enrolled and is no longer accepted."""
        person = self._person(device)
        return person is not None and person.revoked is not None

    def _refuse_revoked(self, topic: topics.UploadTopic | topics.StatusTopic) -> None:
        """Nothing of a revoked device is looked at; it is told why, seldom."""
        if self._identities is None or not self.is_revoked(topic.device):
            return
        if isinstance(topic, topics.UploadTopic):
            self._explain(topic.device)
        why = self._identities.people[topic.device].revoked
        raise RemoteProtocolError(
            f"{topic.device} was revoked ({why}); its messages are ignored"
        )

    def _look_for_twin(self, device: str) -> None:
        """Two boards with one identity cut each other off, and neither knows why."""
        if self._recent.echoes(device) < TWIN_WORDS:
            return
        if self._twins.say(device, self._clock()) is not None:
            log.warning("%s: %s", device, TWIN, extra={"device": device})
            self._publisher.tell(device, Wait(0, TWIN))

    def _is_deaf(self, device: str, epoch: int) -> bool:
        """Return whether a device follows a newer coordinator and ignores us."""
        ours, _ = self._publisher.life
        if epoch > ours and device not in self._deaf:
            self._deaf.add(device)
            log.warning(
                "%s follows a coordinator of epoch %d and ignores this one, of "
                "epoch %d: this folder is an older copy of the run's; resume the newer "
                "one, or start this run in a new folder",
                *(device, epoch, ours),
                extra={"device": device},
            )
        return epoch > ours

    def dismiss(self, device: str) -> None:
        """Tells a device that it was revoked."""
        person = self._person(device)
        if person is not None and person.revoked is not None:
            log.warning("%s was revoked: %s", device, person.revoked)
            self._publisher.tell(device, Revoked(person.last_key, person.revoked[:500]))

    def _renew(self, device: str, request: Request) -> None:
        assert self._identities is not None  # noqa: S101 - only read with a seal
        try:
            certificate = self._identities.renew(device, request.csr)
        except IdentityError as error:
            raise RemoteProtocolError(f"{device} cannot renew: {error}") from error
        log.info("%s has a new certificate", device)
        self._publisher.tell(device, Certificate(certificate))

    def _remind(self, device: str) -> None:
        """Asks for a renewal that is due.

        Whatever it says: a HELLO may be lost, and a busy device says no other.
        """
        if self._identities is None or not self._identities.renewal_due(device):
            return
        if self._reminded.say(device, self._clock()) is not None:
            self._publisher.tell(device, Renew("less than a third of its life is left"))

    def _explain(self, device: str) -> None:
        """Send a refused device the reason, at most now and then: it may be forged."""
        if (
            self._identities is None
            or self._explained.say(device, self._clock()) is None
        ):
            return
        if self.is_revoked(device):
            self.dismiss(device)
        elif self._person(device) is None:
            self._publisher.tell(device, Wait(int(1000 * EXPLAIN_S), UNSIGNED))
        elif ended := self._identities.ended(device):
            why = f"{ended}: {OVER}"
            self._publisher.tell(device, Wait(int(1000 * EXPLAIN_S), why[:500]))

    def _over(self, topic: topics.Topic) -> str | None:
        """A sentence on the expired certificate of a topic's device, or None."""
        if self._identities is None or not isinstance(
            topic, topics.UploadTopic | topics.StatusTopic
        ):
            return None
        return self._identities.ended(topic.device)


def _showable(envelope: Envelope) -> Envelope:
    shown = showable(envelope.message)
    return envelope if shown is envelope.message else replace(envelope, message=shown)


def _sender(topic: topics.Topic, envelope: Envelope, federation: str) -> str:
    """The device whose topic it is, if the message is by it and for us.

    Raises:
        RemoteProtocolError: If not: it was signed for somebody else, or by somebody.
    """
    match topic:
        case topics.UploadTopic(device, _, data):
            if data != isinstance(envelope.message, Data):
                raise RemoteProtocolError(
                    "chunks and control messages have separate topics"
                )
        case topics.StatusTopic(device):
            if not isinstance(envelope.message, Status):
                raise RemoteProtocolError("this topic takes only a status")
        case _:
            raise RemoteProtocolError("devices must not publish on this topic")
    header = envelope.header
    if header.source != device:
        raise RemoteProtocolError(f"{device} publishes as {header.source}")
    if (header.federation, header.destination) != (federation, "coordinator"):
        raise RemoteProtocolError(
            f"it is for {header.destination[:64]!r} of {header.federation[:64]!r}"
        )
    return device
