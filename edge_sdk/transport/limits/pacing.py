"""Messages spread over time, where a broker bounds what a client sends a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from edge_sdk.transport.base import OutgoingMessage
from edge_sdk.transport.limits.values import BrokerLimits

__all__ = ["SMALL", "PacedSender", "SendQueue"]

log = logging.getLogger(__name__)

SHARE = 0.9  # of a rate that is used: clocks and networks bunch messages together
SMALL = 8 * 1024  # bytes; orders and receipts go before chunks of models
MOST = 4096  # messages that wait
DRAIN_S = 20.0  # for small messages that still wait for their turn at the end


class SendQueue:
    """Messages that wait until the broker's rates let them go.

    Small ones go first. Of two retained on one topic only the later one is sent, and
    what waits already is not put in again: a chunk that is asked for twice goes once.
    """

    def __init__(self) -> None:
        self._lanes: tuple[dict[object, OutgoingMessage], ...] = ({}, {})
        self._next_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    @property
    def small(self) -> int:
        """Small messages that wait."""
        return len(self._lanes[0])

    def put(self, message: OutgoingMessage) -> bool:
        """Takes a message; returns False if too many wait."""
        key = message.topic if message.retain else (message.topic, message.payload)
        lane, other = self._lanes[:: -1 if message.size > SMALL else 1]
        other.pop(key, None)
        if key not in lane and len(self) >= MOST:
            return False
        lane[key] = message  # in the place of the earlier one
        return True

    def take(
        self, limits: BrokerLimits, now: float
    ) -> tuple[OutgoingMessage | None, float]:
        """The next message if one may go now, and seconds until another may.

        Args:
            limits: The broker's.
            now: Monotonic seconds.
        """
        lane = next((lane for lane in self._lanes if lane), None)
        if lane is None or now < self._next_at:
            return None, max(self._next_at - now, 0.0)
        message = lane.pop(next(iter(lane)))
        cost_s = max(1 / limits.publishes_per_s, message.size / limits.bytes_per_s)
        self._next_at = max(now, self._next_at) + cost_s / SHARE
        return message, self._next_at - now


class PacedLink(Protocol):
    """A link as a `PacedSender` uses it."""

    @property
    def limits(self) -> BrokerLimits:
        """Limits of its broker."""
        ...

    def publish(self, parcel: OutgoingMessage) -> None:
        """Sends a message."""
        ...

    def runs_this_thread(self) -> bool:
        """Return whether the caller is one of its callbacks."""
        ...


class PacedSender:
    """Thread that hands messages to a link, no more at a time than its broker takes.

    It starts with the first message, so a broker without rates costs none.

    Args:
        name: The thread's.
        link: Finds the present link; None while there is none.
    """

    def __init__(self, name: str, link: Callable[[], PacedLink | None]) -> None:
        self._name, self._link = name, link
        self._queue, self._changed = SendQueue(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._handing = False  # a message to the link, just now
        self._closed = False

    def put(self, parcel: OutgoingMessage) -> None:
        """Takes a message; one too many is dropped, and said."""
        with self._changed:
            if not self._queue.put(parcel):
                log.warning("send queue full: dropped a message to %s", parcel.topic)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._send, name=self._name)
                self._thread.daemon = True
                self._thread.start()
            self._changed.notify_all()

    def wake(self) -> None:
        """Another link is up."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Lets small messages go that still wait, a goodbye or receipts, and ends."""
        until = time.monotonic() + DRAIN_S
        with self._changed:
            while (
                (self._queue.small or self._handing)
                and (link := self._link()) is not None
                and not link.runs_this_thread()
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(min(left, 0.1))
            self._closed = True
            self._changed.notify_all()

    def _send(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                link, parcel, wait_s = self._link(), None, None
                if link is not None and len(self._queue):
                    parcel, wait_s = self._queue.take(link.limits, time.monotonic())
                if link is None or parcel is None:
                    self._changed.wait(wait_s)
                    continue
                self._handing = True
            try:
                link.publish(parcel)
            finally:
                with self._changed:
                    self._handing = False
                    self._changed.notify_all()
