"""The coordinator's side of a simulated round on the wire.

Who is asked, when a round ends and what becomes of it was decided before, in virtual
time. What is left is the protocol's own handlers, and how long a round is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from coordinator.protocol.events import EventQueue, TransportConnected
from coordinator.protocol.handlers import IDLE_S, TaskHandlers
from coordinator.protocol.link import Connect
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.receiver import MessageReceiver
from coordinator.rounds.validation import Refusal
from coordinator.simulation.checkpoints import EPOCH
from coordinator.simulation.dispatch import SimulatedPart, TaskResult
from coordinator.simulation.mqtt.devices import Devices
from edge_sdk.errors import RemoteProtocolError, RunError
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import (
    Announce,
    Data,
    Hello,
    Manifest,
    Message,
    Need,
    Offer,
    Receipt,
    Running,
    Status,
    Wait,
)
from edge_sdk.wire.values import CODECS

__all__ = ["PATIENCE_S", "MqttRounds"]

log = logging.getLogger(__name__)

TICK_S = 0.2
GOODBYE_S = 5.0  # for the devices' last statuses
PATIENCE_S = 120.0  # without any progress: a broker that restarts is back sooner


class MqttRounds:
    """Carries one round after the other.

    Args:
        federation: The federation's name.
        task: The task's reference.
        rounds: Of the whole run.
        connect: Makes the transport.
        devices: Who is on the other side.
        patience_s: How long a round may stand still while nobody trains.
    """

    def __init__(
        self,
        federation: str,
        task: str,
        rounds: int,
        connect: Connect,
        devices: Devices,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._federation, self._devices = federation, devices
        self._task, self._rounds = task, rounds
        self._patience, self._clock = patience_s, time.monotonic
        self._inbox = EventQueue(self._clock)
        self._up = False
        self._transport = connect(self._inbox.deliver, self._link)
        self._publisher = Publisher(self._transport, federation, EPOCH)
        self._receiver = MessageReceiver(federation, None, self._publisher, self._clock)
        self._handlers = TaskHandlers(self, self._publisher, self._clock)
        self._parts: Mapping[str, SimulatedPart] = {}
        self._done: dict[str, TaskResult] = {}
        self._here: dict[str, int] = {}  # devices that have said HELLO: examples
        self._accepted: set[str] = set()  # tasks of all rounds
        self._known: set[tuple[str, str]] = set()  # (task, what has come of it)
        self._moved = self._clock()
        self._round = 0
        for data in (False, True):
            self._transport.subscribe(topics.all_uploads(federation, data=data))
        self._transport.subscribe(topics.all_statuses(federation))

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Publishes a base or a structure; its chunks fit the broker's packets."""
        return self._publisher.shelve(content, round_no)

    def carry(
        self, round_no: int, parts: Mapping[str, SimulatedPart]
    ) -> Mapping[str, TaskResult]:
        """Sends the orders and takes in what comes of them.

        Raises:
            RunError: If a worker died, or nothing has come for longer than anybody's
                patience.
        """
        self._parts, self._done, self._round = parts, {}, round_no
        self._publisher.wipe(before_round=round_no)
        self._publisher.announce(
            Announce("running", self._task, round_no, self._rounds, list(CODECS))
        )
        for device, part in parts.items():
            if device in self._here:  # the others are told when they say HELLO
                self.tell(device, part.order)
        self._moved = self._clock()
        while len(self._done) < len(parts):
            self._turn()
        return self._done

    def close(self, names: Sequence[str]) -> None:
        """Takes everything retained off the broker, and disconnects.

        The devices' goodbyes are retained, too, and may come after their links have
        gone; what we wipe comes back to us, and only then it has arrived.
        """
        statuses = {topics.status(self._federation, name) for name in names}
        self._await(set(statuses), _is_goodbye)
        self._publisher.wipe(before_round=self._round + 1)
        for topic in (topics.announcement(self._federation), *statuses):
            self._transport.publish(topic, b"", retain=True)
        self._await(set(statuses), lambda delivery: not delivery.payload)
        self._transport.close()

    def _await(
        self, waiting: set[str], last: Callable[[ReceivedMessage], bool]
    ) -> None:
        give_up = self._clock() + GOODBYE_S
        while waiting and self._up and self._clock() < give_up:
            item = self._inbox.take(TICK_S)
            if isinstance(item, ReceivedMessage):
                item.ack()
                if item.topic in waiting and last(item):
                    waiting.discard(item.topic)

    # -- network thread ----------------------------------------------------------------

    def _link(self, up: bool) -> None:  # noqa: FBT001 - the transport's callback
        self._up = up
        self._inbox.link(up)

    # -- one turn ----------------------------------------------------------------------

    def _turn(self) -> None:
        self._devices.check()
        self._handlers.tick()
        if self._devices.training:
            self._moved = self._clock()
        elif self._clock() - self._moved > self._patience:
            raise self._stuck()
        match self._inbox.take(TICK_S):
            case ReceivedMessage() as delivery:
                self._hear(delivery)
            case TransportConnected():
                self._publisher.after_connect()
            case _:  # nothing came
                pass

    def _hear(self, delivery: ReceivedMessage) -> None:
        try:
            heard = self._receiver.read(delivery)
            if heard is not None:
                self._answer(heard[0], heard[1].message)
        except RemoteProtocolError as error:
            log.warning("dropped a message on %s: %s", delivery.topic[:120], error)
        finally:
            delivery.ack()

    def _answer(self, device: str, message: Message) -> None:
        match message:
            case Hello(task_id=task_id, examples=examples):
                self._here[device] = examples
                if self._handlers.hello(device, task_id):
                    wait = Wait(int(1000 * IDLE_S), "no task for you just now")
                    self.tell(device, wait)
            case Status() | Running() | Wait():
                pass  # nobody displays them, delivers models or has limits here
            case _:
                self._handlers.answer(device, message)

    # -- what the handlers ask and tell; implements `Rounds` ---------------------------

    def open_part(
        self, device: str, task_id: str | None = None
    ) -> SimulatedPart | None:
        """The device's part of the round, while nothing has come of it."""
        part = None if device in self._done else self._parts.get(device)
        return part if part and task_id in (None, part.order.id) else None

    def examples(self, device: str) -> int:
        """As its HELLO said."""
        return self._here.get(device, 0)

    def fate_of(self, device: str, task_id: str) -> Receipt:
        """Accepted, or of no round that is not over."""
        if task_id in self._accepted:
            return Receipt(task_id, "accepted")
        return Receipt(task_id, "unknown", "this run has no such task for you")

    def fate_of_offer(self, device: str, offer: Offer) -> Receipt:
        """As `fate_of`."""
        return self.fate_of(device, offer.task_id)

    def acknowledged(self, device: str, task_id: str) -> None:
        """Counts as progress."""
        self._came(task_id, "ack")

    def asked(self, device: str, need: Need) -> None:
        """Count an offer as progress."""
        self._came(need.blob, "offer")

    def advances(self, device: str, data: Data) -> None:
        """Counts as progress."""
        self._came(data.task_id, str(data.index))

    def accept(
        self,
        device: str,
        part: SimulatedPart,
        offer: Offer,
        content: bytes,
        norm: float,
    ) -> None:
        """The device is done."""
        self._done[device] = TaskResult(offer, content, norm)
        self._accepted.add(offer.task_id)
        self.tell(device, self.fate_of(device, offer.task_id))

    def reject(
        self,
        device: str,
        part: SimulatedPart,
        offer: Offer,
        content: bytes,
        why: Refusal,
    ) -> None:
        """The device is done, and nothing of it counts."""
        self._done[device] = TaskResult(offer, content, why=why.told)
        self.tell(device, Receipt(offer.task_id, "rejected", why.told))

    def corrupt(self, device: str, task_id: str, why: str) -> None:
        """Ignore a damaged chunk: it will be sent again."""

    def fail(self, device: str, task_id: str, why: str, *, lasting: bool) -> None:
        """The device is done without an update."""
        self._done[device] = TaskResult(why=why, lasting=lasting)

    def tell(self, device: str, message: Message) -> None:
        """Sends a message."""
        self._publisher.tell(device, message, round_no=self._round)

    def _came(self, task_id: str, what: str) -> None:
        """Only what is new is progress: a device repeats what gets lost."""
        if (task_id, what) not in self._known:
            self._known.add((task_id, what))
            self._moved = self._clock()

    def _stuck(self) -> RunError:
        open_ = [device for device in self._parts if device not in self._done]
        some = ", ".join(open_[:3]) + (", ..." if len(open_) > 3 else "")
        return RunError(
            f"round {self._round} makes no progress: for {self._patience:.0f} s "
            f"nothing has come through the broker from {len(open_)} devices ({some})",
            remedy="See whether the broker runs, and in its log what it has refused or "
            "dropped (limits for packets, queues, connections). The same command goes "
            "on after the last whole round.",
        )


def _is_goodbye(delivery: ReceivedMessage) -> bool:
    with contextlib.suppress(RemoteProtocolError):
        message = decode(delivery.payload).message
        return isinstance(message, Status) and not message.online
    return False
