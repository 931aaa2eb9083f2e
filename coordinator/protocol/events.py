"""Events from other threads to the loop: one queue, taken in groups with one commit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from coordinator.ledger import Ledger
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.client import Waker, together, wake

__all__ = [
    "DeviceRevoked",
    "EvaluationDone",
    "EventQueue",
    "Item",
    "KeyRotated",
    "MessageGroups",
    "TransportConnected",
    "Unlinked",
]

QUEUE = 8192  # packets; a full queue drops, and devices ask again
ROOM_S = 0.5  # between two looks at whether the loop has ended
GROUP, GROUP_S = 256, 0.05  # receipts that share one commit at most; or so long
# Without a message, until a commit: one takes about as long. While devices send what
# they were asked for, more receipts are certain: a group takes its whole time then.
LULL_S = 0.005
TELEMETRY_S = 1.0  # progress that nobody waits for may be so much behind on the disk


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

    def group(self, timeout: float, lull: Callable[[], float]) -> Iterator[Item]:
        """Yield the waiting events, for at most `GROUP_S` after the first.

        A group ends when nothing more has come for a while, so a lone receipt is hardly
        held up; under load others join it while the one before is being committed.

        Args:
            timeout: Seconds to wait for the first.
            lull: Asked each time that nothing waits; gives the seconds to wait.
        """
        item = self.take(timeout)
        until = self._clock() + GROUP_S
        while item is not None:
            yield item
            left_s = until - self._clock()
            if left_s <= 0:
                return
            item = self.take(0.0)
            if item is None and (wait_s := lull()):
                item = self.take(min(wait_s, left_s))


class MessageGroups:
    """Takes what has come, a group at a time.

    Args:
        inbox: Where it waits.
        ledger: What of it becomes durable.
        handle: Handles one event.
        is_over: Whether the round in hand ends as soon as its messages are handled.
        sending: Whether devices send chunks that they were asked for.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        inbox: EventQueue,
        ledger: Ledger,
        handle: Callable[[Item], None],
        is_over: Callable[[], bool],
        sending: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._inbox, self._ledger, self._handle = inbox, ledger, handle
        self._is_over, self._sending, self._clock = is_over, sending, clock
        self._settled = clock()

    def take(self, timeout: float) -> None:
        """Handles a group of what waits; commits it if anybody waits for that.

        A round that is over takes its last receipts along as it is frozen.

        Args:
            timeout: Seconds to wait for the first event.
        """
        ledger = self._ledger
        with together() as waiting:
            for item in self._inbox.group(timeout, partial(self._lull_s, waiting)):
                self._handle(item)
                if ledger.promised >= GROUP or self._is_over():
                    break
            late = self._clock() - self._settled >= TELEMETRY_S
            receipts = ledger.promised and not self._is_over()
            if receipts or (late and ledger.unsettled):
                if waiting:
                    wake(waiting)  # what was asked for does not wait for the disk
                ledger.settle()
                self._settled = self._clock()

    def _lull_s(self, waiting: dict[Waker, int]) -> float:
        """Seconds that receipts wait for others; what else is to be said goes out."""
        if not self._ledger.promised:
            return 0.0
        if waiting:
            wake(waiting)
        return GROUP_S if self._sending() else LULL_S
