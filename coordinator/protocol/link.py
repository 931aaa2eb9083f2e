"""Link of a coordinator to its broker, of a real fleet's or of a simulated one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from edge_sdk.transport.address import Address
from edge_sdk.transport.base import Deliver, OnLink, Transport
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire.blob import AROUND
from edge_sdk.wire.codec import MAX_DATA

__all__ = ["Connect", "link_to"]

Connect: TypeAlias = Callable[[Deliver, OnLink], Transport]
WINDOW = 256  # packets that wait here at a time; the rest waits at the broker
FIRST_S = 10.0  # for the first connection


def link_to(
    address: Address,
    federation: str,
    *,
    patient: bool = False,
    linked: Callable[[], object] = lambda: None,
) -> Connect:
    """The function that connects a federation's coordinator to a broker.

    Args:
        address: The broker.
        federation: The federation's name.
        patient: Whether it waits, as devices do, for a broker that may come by itself:
            one that is not reached, or has no room, or while a clock is not set.
        linked: Called with each link, on the transport's thread.
    """

    def connected(deliver: Deliver, on_link: OnLink) -> Transport:
        def told(up: bool) -> None:  # noqa: FBT001 - as every `OnLink`
            if up:
                linked()
            on_link(up)

        return MqttTransport(
            address,
            f"{federation}-coordinator",
            deliver,
            told,
            wait_s=FIRST_S,
            patient=patient,
            window=WINDOW,
            incoming=MAX_DATA + AROUND,
        )

    return connected
