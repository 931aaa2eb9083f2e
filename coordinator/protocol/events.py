"""Events from other threads to the loop: one queue, taken in groups."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edge_sdk.transport.base import ReceivedMessage

__all__ = [
    "DeviceRevoked",
    "EvaluationDone",
    "EventQueue",
    "Item",
    "KeyRotated",
    "TransportConnected",
    "Unlinked",
]

QUEUE = 8192  # packets; a full queue drops, and devices ask again
ROOM_S = 0.5  # between two looks at whether the loop has ended
GROUP_S = 0.05  # the longest that a receipt waits for others to share its commit


@dataclass(frozen=True)
class TransportConnected:
    """The transport connected."""


@dataclass(frozen=True)
class Unlinked:
    """The transport is no longer connected."""


@dataclass(frozen=True)
class DeviceRevoked:
    """A device is not accepted any more."""

    device: str


@dataclass(frozen=True)
class KeyRotated:
    """Another key signs from now on."""


@dataclass(frozen=True)
class EvaluationDone:
    """An evaluation is done."""

    round_no: int
    density: float
    metrics: Mapping[str, float]
    worse: str = ""  # why the model is worse than the one before


Item: TypeAlias = (
    ReceivedMessage
    | TransportConnected
    | Unlinked
    | DeviceRevoked
    | KeyRotated
    | EvaluationDone
)


class EventQueue:
    """Filled by other threads, emptied by the loop.

    Args:
        clock: Monotonic seconds.

    Attributes:
        linked: Whether the transport is connected.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.linked = False
        self._first: float | None = None  # monotonic; of the first link
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._closed = threading.Event()

    # -- other threads: enqueue and nothing else ---------------------------------------

    def deliver(self, delivery: ReceivedMessage) -> None:
        """A packet; dropped where too many wait."""
        if self._queue.qsize() < QUEUE:
            self._queue.put(delivery)
        else:
            delivery.ack()

    def link(self, up: bool) -> None:  # noqa: FBT001 - the transport's callback
        """The transport connected, or no longer is."""
        self.linked = up
        if up and self._first is None:
            self._first = self._clock()
        if self._queue.qsize() < QUEUE:
            self._queue.put(TransportConnected() if up else Unlinked())

    def since_linked_s(self) -> float:
        """Seconds since the first link to the broker; 0 before it."""
        return 0.0 if self._first is None else self._clock() - self._first

    def scored(
        self,
        round_no: int,
        density: float,
        metrics: Mapping[str, float],
        worse: str = "",
    ) -> None:
        """The evaluator's word."""
        self.put(EvaluationDone(round_no, density, metrics, worse))

    def put(self, item: Item) -> None:
        """Waits for room, as long as somebody makes room."""
        while self._queue.qsize() >= QUEUE:
            if self._closed.wait(ROOM_S):
                return
        self._queue.put(item)

    def wake(self) -> None:
        """Ends a wait of `group` soon."""
        self._queue.put(None)

    # -- the loop ----------------------------------------------------------------------

    def close(self) -> None:
        """The loop has ended: nobody waits for room any more."""
        self._closed.set()

    def take(self, timeout: float) -> Item | None:
        """Take the oldest event; None if none comes in time, or after `wake`.

        Args:
            timeout: Seconds; 0 does not wait.
        """
        try:
            return self._queue.get(block=timeout > 0, timeout=timeout or None)
        except queue.Empty:
            return None

    def group(self, timeout: float) -> Iterator[Item]:
        """Yield the waiting events, for at most `GROUP_S` after the first.

        A group ends when nothing more waits, so a lone receipt is not held up; under
        load others join it while the one before is being committed.

        Args:
            timeout: Seconds to wait for the first.
        """
        item = self.take(timeout)
        until = self._clock() + GROUP_S
        while item is not None:
            yield item
            if self._clock() >= until:
                return
            item = self.take(0.0)
