"""A packet that came in: whose it is, what it says, and which part handles it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.delivery.sender import DeliverySender
from coordinator.ledger import Ledger
from coordinator.protocol.receiver import MessageReceiver
from coordinator.rate_limit import Excess, Flood, Seldom
from coordinator.server.broker_cleanup import Wiping
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.handlers import MessageHandlers
from coordinator.server.round_controller import RoundController
from edge_sdk.errors import EdgeError, RemoteProtocolError
from edge_sdk.terminal import log_about, plain
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.bounds import BOUNDS, beyond
from edge_sdk.wire.codec import Envelope
from edge_sdk.wire.messages import Data, Hello, Running, Status

__all__ = ["MessageDispatcher"]

log = logging.getLogger(__name__)
LAST_CHUNK = BOUNDS[Data]["index"].most
SAY_S = 60.0  # between two lines about what one device sent that was dropped


class MessageDispatcher:
    """Passes each message on; what is none is counted against its sender.

    Args:
        federation: Its name.
        receiver: Reads packets.
        fleet: Takes statuses.
        deliveries: Takes what devices run.
        handlers: Answers the rest.
        controller: Whose round is in hand.
        ledger: Keeps refusals.
        wiping: Clears what revoked devices have retained.
        clock: Monotonic seconds.
        mute: Has the broker refuse a device for a while, where it can.
        orders: Device -> orders that it was sent up to now.
    """

    def __init__(
        self,
        federation: str,
        receiver: MessageReceiver,
        fleet: DeviceRegistry,
        deliveries: DeliverySender,
        handlers: MessageHandlers,
        controller: RoundController,
        ledger: Ledger,
        wiping: Wiping,
        clock: Callable[[], float],
        mute: Callable[[str], object],
        orders: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._federation, self._receiver = federation, receiver
        self._fleet, self._deliveries, self._handlers = fleet, deliveries, handlers
        self._controller, self._ledger = controller, ledger
        self._wiping, self._clock, self._mute = wiping, clock, mute
        self._flood = Flood(clock, self._tell_excess, self._silence, orders)
        self._seldom = Seldom(SAY_S)
        self.dropped = 0  # malformed or foreign messages

    def hear(self, delivery: ReceivedMessage) -> None:
        """Handles one packet, and acknowledges it.

        Raises:
            RunError: If the run cannot go on.
            StateError: If the disk refuses.
        """
        try:
            topic = topics.parse(delivery.topic, self._federation)
            if not self._flood.lets_in(topic):
                self._wiping.saw(delivery.topic, delivery.payload)
                return
            heard = self._receiver.read(delivery, topic)
            if heard is None:
                return
            device, envelope = heard
            said = envelope.message
            if isinstance(said, Data) and 0 <= said.index <= LAST_CHUNK:
                # Its topic has a rate, and its OFFER has shown that the device is here.
                self._handlers.data(device, said)
            elif self._flood.lets_say(device, said):
                with log_about(device=device):
                    self._heed(device, envelope)
        except RemoteProtocolError as error:
            self.dropped += 1
            self._wiping.saw(delivery.topic, delivery.payload)
            self._blame(self._sender(delivery), delivery.topic, plain(str(error)))
        except EdgeError:
            raise
        except Exception:  # a surprise in one message must not end the federation
            self.dropped += 1
            sender = self._sender(delivery)
            before = self._seldom.say((sender, "surprise"), self._clock())
            if before is not None:
                with log_about(device=sender):
                    what = f"{delivery.topic[:120]}{_more(before)}"
                    log.exception("a message on %s could not be handled", what)
        finally:
            delivery.ack()

    def _sender(self, delivery: ReceivedMessage) -> str | None:
        return topics.device_of(delivery.topic, self._federation)

    def _heed(self, device: str, envelope: Envelope) -> None:
        header, message = envelope.header, envelope.message
        impossible = beyond(message)
        if impossible:
            self.dropped += 1
            self._handlers.turn_away(device, message, impossible)
        elif isinstance(message, Status):
            if self._fleet.note(device, header, message):
                self._controller.saw(device, message)
        elif isinstance(message, Running):
            self._deliveries.told(device, message)
        else:
            self._fleet.heard(device, header)
            packet = envelope.packet
            self._handlers.answer(device, message, boot=header.boot, packet=packet)
            if isinstance(message, Hello):
                self._deliveries.greeted(device)

    def _blame(self, device: str | None, topic: str, why: str) -> None:
        """Counts what was not understood, or not believed, against whose topic it is.

        Every one is counted and few are logged: who sends many must not fill the log.
        """
        revoked = device is not None and self._receiver.is_revoked(device)
        before = self._seldom.say((device, revoked), self._clock())
        if before is not None:
            with log_about(device=device):
                said = why if revoked else f"dropped a message on {topic[:120]}: {why}"
                log.warning("%s%s", said, _more(before))
        # Names are bounded: it said hello once, or was enrolled.
        if device and (revoked or self._fleet.examples(device)):
            self._count(device, "revoked" if revoked else "malformed", why)

    def _tell_excess(self, excess: Excess) -> None:
        log.warning("%s", excess, extra={"device": excess.device})
        if self._fleet.examples(excess.device):
            self._count(excess.device, "flooding", str(excess))

    def _silence(self, device: str) -> None:
        """A device floods: no round waits for it; the broker refuses it if it can."""
        self._handlers.dismiss(
            device, "it sends too many messages; its messages are ignored for a minute"
        )
        self._mute(device)

    def _count(self, device: str, verdict: str, why: str) -> None:
        self._ledger.refuse(device, self._controller.round_no, verdict, why)


def _more(before: int) -> str:
    return f" ({before} more like it before)" if before else ""
