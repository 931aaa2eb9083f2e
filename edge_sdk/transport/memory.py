"""An in-memory broker and its transport: the real protocol without a network.

For tests, simulation and a user's own experiments. Delivery is immediate and on the
publisher's thread, as the callbacks only enqueue.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge_sdk.transport.base import (
    Deliver,
    OnLink,
    ReceivedMessage,
    Traffic,
    Will,
)
from edge_sdk.transport.limits import NO_LIMIT, BrokerLimits

__all__ = ["MemoryBroker", "MemoryTransport"]


class MemoryBroker:
    """Topics, retained messages and wills, in one process.

    Args:
        limit: Bytes that a payload may take; larger ones are dropped.
    """

    def __init__(self, limit: int = NO_LIMIT) -> None:
        self.limits = BrokerLimits(packet=limit)
        self._lock = threading.RLock()
        self._links: list[MemoryTransport] = []
        self._retained: dict[str, bytes] = {}

    def connect(
        self, deliver: Deliver, on_link: OnLink, will: Will | None = None
    ) -> MemoryTransport:
        """A new connected transport; `on_link(True)` is called before it returns."""
        link = MemoryTransport(self, deliver, on_link, will)
        with self._lock:
            self._links.append(link)
        on_link(True)  # noqa: FBT003 - a callback
        return link

    def retained(self, topic: str) -> bytes | None:
        """The retained payload of a topic, or None."""
        return self._retained.get(topic)

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Delivers to every matching subscription."""
        with self._lock:
            if retain and payload:
                self._retained[topic] = payload
            elif retain:
                self._retained.pop(topic, None)
            links = list(self._links)
        for link in links:
            link.offer(topic, payload)

    def held(self, pattern: str) -> Iterator[ReceivedMessage]:
        """Retained messages that match a filter."""
        with self._lock:
            found = [ReceivedMessage(t, p) for t, p in self._retained.items()]
        return (d for d in found if _matches(pattern, d.topic))

    def knows(self, link: MemoryTransport) -> bool:
        """Return whether a transport is still connected."""
        with self._lock:
            return link in self._links

    def leave(self, link: MemoryTransport, *, will: Will | None) -> None:
        """Takes a transport out, publishing its will if it died."""
        with self._lock:
            if link not in self._links:
                return
            self._links.remove(link)
        if will is not None:
            self.route(will.topic, will.payload, retain=True)


@dataclass(eq=False)
class MemoryTransport:
    """One client of a `MemoryBroker`; implements `Transport`."""

    broker: MemoryBroker
    deliver: Deliver
    on_link: OnLink
    will: Will | None
    _topics: set[str] = field(default_factory=set)
    _filters: set[str] = field(default_factory=set)  # with + or #
    _sent: int = 0
    _received: int = 0

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        sure: bool = True,
        expires_s: int | None = None,
    ) -> None:
        """Routes at once; nothing goes out of one that has left."""
        if len(payload) > self.broker.limits.packet or not self.broker.knows(self):
            return
        self._sent += len(payload)
        self.broker.route(topic, payload, retain=retain)

    def subscribe(self, *patterns: str) -> None:
        """Adds the filters and delivers what is retained under each."""
        for pattern in patterns:
            self._kind(pattern).add(pattern)
            for delivery in self.broker.held(pattern):
                self._received += len(delivery.payload)
                self.deliver(delivery)

    def unsubscribe(self, *patterns: str) -> None:
        """Drops the filters."""
        for pattern in patterns:
            self._kind(pattern).discard(pattern)

    def offer(self, topic: str, payload: bytes) -> None:
        """Delivers once if any filter matches; most are plain topics."""
        if topic in self._topics or any(_matches(f, topic) for f in self._filters):
            self._received += len(payload)
            self.deliver(ReceivedMessage(topic, payload))

    def _kind(self, pattern: str) -> set[str]:
        return self._filters if {"+", "#"} & set(pattern) else self._topics

    def limits(self) -> BrokerLimits:
        """Limits of a payload; there is nothing around it."""
        return self.broker.limits

    def traffic(self) -> Traffic:
        """Payload bytes; there are no others in memory."""
        return Traffic(self._sent, self._received)

    def close(self) -> None:
        """Leaves in good order."""
        self.broker.leave(self, will=None)

    def die(self) -> None:
        """Leaves as a killed process does: the broker speaks the will."""
        self.broker.leave(self, will=self.will)


def _matches(pattern: str, topic: str) -> bool:
    wanted, found = pattern.split("/"), topic.split("/")
    for i, part in enumerate(wanted):
        if part == "#":
            return True
        if i >= len(found) or part not in ("+", found[i]):
            return False
    return len(wanted) == len(found)
