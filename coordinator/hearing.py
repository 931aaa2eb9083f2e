"""A packet that came in: whose it is, what it says, and who in the house needs it."""

from __future__ import annotations

import contextlib
import logging

from coordinator.conductor import Conductor
from coordinator.delivery.courier import Courier
from coordinator.desk import Desk
from coordinator.fleet import Fleet
from coordinator.ledger import Ledger
from coordinator.reception import Reception
from edge_sdk.errors import EdgeError, RemoteProtocolError
from edge_sdk.terminal import log_about
from edge_sdk.transport.base import Delivery
from edge_sdk.wire import topics
from edge_sdk.wire.bounds import beyond
from edge_sdk.wire.messages import Hello, Message, Running, Status

__all__ = ["Hearing"]

log = logging.getLogger(__name__)


class Hearing:
    """Passes each message on; what is none is counted against its sender.

    Args:
        federation: Its name.
        reception: Reads packets.
        fleet: Takes statuses.
        courier: Takes what devices run.
        desk: Answers the rest.
        conductor: Whose round is in hand.
        ledger: Keeps refusals.
    """

    def __init__(
        self,
        federation: str,
        reception: Reception,
        fleet: Fleet,
        courier: Courier,
        desk: Desk,
        conductor: Conductor,
        ledger: Ledger,
    ) -> None:
        self._federation, self._reception = federation, reception
        self._fleet, self._courier, self._desk = fleet, courier, desk
        self._conductor, self._ledger = conductor, ledger
        self.dropped = 0  # malformed or foreign messages

    def hear(self, delivery: Delivery) -> None:
        """Handles one packet.

        Raises:
            RunError: If the run cannot go on.
            StateError: If the disk refuses.
        """
        try:
            heard = self._reception.read(delivery)
            if heard is None:
                return
            with log_about(device=heard[0]):
                self._heed(*heard)
        except RemoteProtocolError as error:
            self.dropped += 1
            with log_about(device=self._speaker(delivery.topic)):
                log.warning("dropped a message on %s: %s", delivery.topic[:120], error)
            self._blame(delivery.topic, str(error))
        except EdgeError:
            raise
        except Exception:  # a surprise in one message must not end the federation
            self.dropped += 1
            with log_about(device=self._speaker(delivery.topic)):
                what = delivery.topic[:120]
                log.exception("a message on %s could not be handled", what)

    def _heed(self, device: str, message: Message) -> None:
        impossible = beyond(message)
        if impossible:
            self.dropped += 1
            self._desk.turn_away(device, message, impossible)
        elif isinstance(message, Status):
            self._fleet.note(device, message)
        elif isinstance(message, Running):
            self._courier.told(device, message)
        else:
            self._fleet.heard(device)
            self._desk.answer(device, message)
            if isinstance(message, Hello):
                self._courier.greeted(device)

    def _speaker(self, name: str) -> str | None:
        """The device whose topic this is; None for any other topic."""
        with contextlib.suppress(RemoteProtocolError):
            topic = topics.parse(name, self._federation)
            if isinstance(topic, topics.Upload | topics.Status):
                return topic.device
        return None

    def _blame(self, name: str, why: str) -> None:
        """Counts a malformed message against the device whose topic it came on."""
        device = self._speaker(name)
        if device and self._fleet.examples(device):  # it said hello: names are bounded
            now = self._conductor.round
            self._ledger.refuse(device, now.no if now else 0, "malformed", why)
