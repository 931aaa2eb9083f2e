"""The seam to the broker: opaque bytes on topics, and what they cost on the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from edge_sdk.transport.limits import BrokerLimits

__all__ = [
    "Deliver",
    "OnLink",
    "OutgoingMessage",
    "ReceivedMessage",
    "Traffic",
    "Transport",
    "Will",
]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message that arrived.

    `ack` is called when it has been dealt with: a transport that was given a window
    lets the broker send no more than that many ahead.
    """

    topic: str
    payload: bytes
    ack: Callable[[], object] = field(default=object, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message on its way out.

    Attributes:
        topic: Where to.
        payload: What.
        retain: Whether the broker keeps it.
        sure: Whether the broker acknowledges it (QoS 1).
        expires_s: Seconds after which nobody wants it any more; None for never.
    """

    topic: str
    payload: bytes
    retain: bool = False
    sure: bool = True
    expires_s: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its PUBLISH packet at most."""
        return len(self.payload) + len(self.topic.encode()) + 16


@dataclass(frozen=True, slots=True)
class Will:
    """MQTT will: the retained message that the broker sends when our link dies.

    Attributes:
        topic: Where to.
        payload: What it says for the first connection.
        renew: Makes the payload of each later one, on the network thread; None says
            the same for all.
    """

    topic: str
    payload: bytes
    renew: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)


class Traffic(NamedTuple):
    """Bytes on the wire since the transport was made, acknowledgements included."""

    sent: int
    received: int


# Both are called on the network thread: they only enqueue, and never raise.
Deliver: TypeAlias = Callable[[ReceivedMessage], None]
OnLink: TypeAlias = Callable[[bool], None]


class Transport(Protocol):
    """Carries opaque bytes; knows topics, not messages.

    Publishing while the link is down is allowed and may lose the message: everything
    above asks again (PROTOCOL: MQTT is a lossy pipe).
    """

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        sure: bool = True,
        expires_s: int | None = None,
    ) -> None:
        """Sends; what is too large for the broker is dropped and said.

        Args:
            topic: Where to.
            payload: What.
            retain: Whether the broker keeps it for late joiners.
            sure: Whether to ask the broker for an acknowledgement (QoS 1).
            expires_s: Seconds after which it is stale, where the broker can tell.
        """
        ...

    def limits(self) -> BrokerLimits:
        """Limits of the broker, as far as they are known."""
        ...

    def subscribe(self, *patterns: str) -> None:
        """Asks for topic filters; kept across reconnects."""
        ...

    def unsubscribe(self, *patterns: str) -> None:
        """Unsubscribe from topic filters."""
        ...

    def traffic(self) -> Traffic:
        """Bytes sent and received so far."""
        ...

    def close(self) -> None:
        """Disconnects in good order; the will is not sent."""
        ...
