"""Traffic of the devices' links: packed bytes, payloads, whole streams."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

from coordinator.simulation.record import Wire
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.transport.base import (
    Deliver,
    OnLink,
    ReceivedMessage,
    Traffic,
    Transport,
    Will,
)
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.wire import topics
from edge_sdk.wire.codec import decode, pack
from edge_sdk.wire.messages import Data, Offer, TaskOrder

__all__ = ["CountedTransport", "TrafficSum"]

Open = Callable[[Deliver, OnLink, Will | None], Transport]


class TrafficSum:
    """Sums over all devices of a federation.

    Args:
        federation: Whose topics they are.
    """

    def __init__(self, federation: str) -> None:
        self._federation = federation
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._links: list[Transport] = []
        self._told = Wire()

    def attach(self, link: Transport) -> None:
        """Adds a device's link, whose stream the kernel counts."""
        with self._lock:
            self._links.append(link)

    def count(
        self, topic: str, payload: bytes, seen: set[Hashable], *, up: bool
    ) -> None:
        """Counts one MQTT message of a device.

        Args:
            topic: Where it goes or comes from.
            payload: What it says.
            seen: What this device has said and heard; a repetition is not packed anew.
            up: Whether the device sends it.
        """
        way = "up" if up else "down"
        what, packed = _packed(topic, payload, self._federation)
        with self._lock:
            packed = 0 if what in seen else packed
            seen.add(what)
            self._counts[f"payload_{way}"] += len(payload)
            self._counts[f"packed_{way}"] += packed

    def since(self) -> Wire:
        """Traffic since the last call."""
        with self._lock:
            streams = [link.traffic() for link in self._links]
            counts = dict(self._counts)
        up, down = (sum(s.sent for s in streams), sum(s.received for s in streams))
        now = Wire(**counts, stream_up=up, stream_down=down)
        before, self._told = self._told, now
        return now.less(before)


class CountedTransport:
    """A device's transport, with every message counted; implements `Transport`."""

    def __init__(
        self,
        connect: Open,
        tally: TrafficSum,
        deliver: Deliver,
        on_link: OnLink,
        will: Will | None,
    ) -> None:
        self._tally, self._seen = tally, set[Hashable]()

        def taken(delivery: ReceivedMessage) -> None:
            tally.count(delivery.topic, delivery.payload, self._seen, up=False)
            deliver(delivery)

        self._link = connect(taken, on_link, will)
        tally.attach(self._link)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        sure: bool = True,
        expires_s: int | None = None,
    ) -> None:
        """Counts and sends."""
        self._tally.count(topic, payload, self._seen, up=True)
        self._link.publish(
            topic, payload, retain=retain, sure=sure, expires_s=expires_s
        )

    def limits(self) -> BrokerLimits:
        """As the broker said."""
        return self._link.limits()

    def subscribe(self, *patterns: str) -> None:
        """Asks for topic filters."""
        self._link.subscribe(*patterns)

    def unsubscribe(self, *patterns: str) -> None:
        """Gives topic filters back."""
        self._link.unsubscribe(*patterns)

    def traffic(self) -> Traffic:
        """Of the TCP stream."""
        return self._link.traffic()

    def close(self) -> None:
        """Disconnects."""
        self._link.close()


def _packed(topic: str, payload: bytes, federation: str) -> tuple[Hashable, int]:
    """Identity of a message, and its bytes that a simulation without links counts."""
    try:
        where = topics.parse(topic, federation)
        if isinstance(where, topics.ChunkTopic):
            return where, len(payload)
        control = payload and isinstance(where, topics.InboxTopic | topics.UploadTopic)
        message = decode(payload).message if control else None
    except RemoteProtocolError:  # a stranger's; who it is for refuses it
        message = None
    match message:
        case Data(task_id, index, chunk):
            return (task_id, index), len(chunk)
        case Offer(task_id=task_id):
            return (task_id, "offer"), len(pack(message))
        case TaskOrder(id=task_id):
            return (task_id, "order"), len(pack(message))
        case _:
            return None, 0
