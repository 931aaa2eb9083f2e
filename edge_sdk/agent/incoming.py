"""Messages that come in: each goes to the session, a delivery, a test or a download."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from msgspec import UNSET

from edge_sdk.agent.effects import SessionEffects
from edge_sdk.device.limits.decision import Pause
from edge_sdk.session import Heard, Nudge, SessionPhase
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.messages import (
    Announce,
    DescribeData,
    Evaluate,
    Install,
    Message,
    Need,
    Receipt,
    TaskOrder,
    Wait,
)

__all__ = ["IncomingMessages"]

log = logging.getLogger(__name__)


class IncomingMessages:
    """Reads packets and passes each message to the part of the agent that it is for.

    Args:
        federation: Its name.
        effects: The session and what belongs to it.
        clock: Monotonic seconds.

    Attributes:
        finished: The coordinator has announced the end of the run.
        repeats: How often it has asked for the same chunks of an update.
    """

    def __init__(
        self, federation: str, effects: SessionEffects, clock: Callable[[], float]
    ) -> None:
        self._federation, self._effects, self._clock = federation, effects, clock
        self._advice = ""  # why the coordinator last told us to wait
        self._link = 0, 0  # the coordinator's epoch, and which of its connections
        self.finished = False
        self._chunks = 0  # that came
        self._asked: Need | None = None  # the coordinator's last request
        self.repeats = 0

    def hear(self, delivery: ReceivedMessage) -> None:
        """A message arrived.

        Raises:
            RemoteProtocolError: If it is not one that this device may believe.
        """
        topic, effects = topics.parse(delivery.topic, self._federation), self._effects
        if isinstance(topic, topics.ChunkTopic):
            self._chunks += 1
            effects.chunk(topic, delivery.topic, delivery.payload)
            return
        if not delivery.payload:  # a retained topic was wiped
            return
        read = effects.receiver.read(delivery.payload)
        if read is None:
            return
        envelope, late = read
        message, epoch = envelope.message, envelope.header.epoch
        stale = epoch < effects.session.epoch
        if isinstance(message, Install) and (stale or late):
            effects.installer.decline(message, epoch, late or "is of an earlier epoch")
            return
        if effects.receiver.tend(message, stale=stale):
            return
        if not stale:
            self._heed(message)
        if isinstance(message, TaskOrder) and effects.declines(message):
            return
        effects.feed(Heard(epoch, message))
        if not stale:
            self._follow(message, epoch)

    @property
    def progress(self) -> object:
        """A value that changes when a transfer goes on."""
        order = self._effects.session.order
        return self._chunks, self._asked, None if order is None else order.id

    def _follow(self, message: Message, epoch: int) -> None:
        """Does what is no part of a session."""
        effects = self._effects
        match message:
            case Install():  # none begins where the owner's limits forbid work
                if effects.installer.busy or not isinstance(effects.verdict(), Pause):
                    effects.installer.take(message, epoch)
            case Evaluate() | DescribeData():
                if not isinstance(effects.verdict(), Pause):
                    effects.evaluator.take(message, effects.session.phase)
            case Announce(state):
                self._ask_again(message, epoch)
                self.finished = state == "done"
                if self.finished:  # the run's last word on what it cost
                    effects.say_status(online=True)
            case _:
                effects.secure.take(message, effects.session)

    def _ask_again(self, announcement: Announce, epoch: int) -> None:
        """Says again what the coordinator's broken link may have lost.

        A broker drops what is sent to a coordinator that is away. A newer epoch is
        answered by the session itself; whoever was told to wait is asked for nothing.
        """
        link = 0 if announcement.link is UNSET else announcement.link
        before, self._link = self._link, (epoch, link)
        effects = self._effects
        told_to_wait = (
            effects.session.phase is SessionPhase.IDLE
            and effects.hold.back_at > self._clock()
        )
        if before[0] == epoch and link > before[1] and not told_to_wait:
            effects.feed(Nudge())

    def _heed(self, message: Message) -> None:
        """Notes what the coordinator advises, and says it to whoever reads the log."""
        match message:
            case Wait(ms, why):
                back_at = self._clock() + ms / 1000 if ms else 0.0
                self._effects.hold = replace(self._effects.hold, back_at=back_at)
                if why != self._advice:
                    self._advice = why
                    log.info("the coordinator says: %s", why)
            case TaskOrder() if not self._effects.hold.why:  # the advice is over
                self._effects.hold = replace(self._effects.hold, back_at=0.0)
            case Need():
                self.repeats = self.repeats + 1 if message == self._asked else 0
                self._asked = message
            case Receipt(task_id, verdict, why) if why:
                log.warning("task %s: %s: %s", task_id, verdict, why)
            case _:
                pass
