"""The seam to the broker: opaque bytes on topics, and what they cost on the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

__all__ = ["Deliver", "Delivery", "OnLink", "Traffic", "Transport", "Will"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that arrived."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us, retained, when the connection dies."""

    topic: str
    payload: bytes


class Traffic(NamedTuple):
    """Bytes on the wire since the transport was made, acknowledgements included."""

    sent: int
    received: int


# Both are called on the network thread: they only enqueue, and never raise.
Deliver: TypeAlias = Callable[[Delivery], None]
OnLink: TypeAlias = Callable[[bool], None]


class Transport(Protocol):
    """Carries opaque bytes; knows topics, not messages.

    Publishing while the link is down is allowed and may lose the message: everything
    above asks again (PROTOCOL: MQTT is a lossy pipe).
    """

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, sure: bool = True
    ) -> None:
        """Sends; `sure` asks the broker for an acknowledgement (QoS 1)."""
        ...

    def subscribe(self, *patterns: str) -> None:
        """Asks for topic filters; kept across reconnects."""
        ...

    def unsubscribe(self, *patterns: str) -> None:
        """Gives topic filters back."""
        ...

    def traffic(self) -> Traffic:
        """Bytes sent and received so far."""
        ...

    def close(self) -> None:
        """Disconnects in good order; the will is not sent."""
        ...
