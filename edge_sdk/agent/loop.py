"""The loop: one bounded queue, emptied by one thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from edge_sdk.agent.effects import SessionEffects
from edge_sdk.agent.incoming import IncomingMessages
from edge_sdk.agent.parts import Connect, DeviceKeys, Identity, Runner
from edge_sdk.agent.silence import SilenceWatch, TransferWatch
from edge_sdk.agent.training_thread import Outcome
from edge_sdk.deploy.delivered_bundle import Installed
from edge_sdk.deploy.installer import ASK_S
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.device.limits.decision import Go, Pause
from edge_sdk.device.limits.enforcement import LimitsEnforcer
from edge_sdk.errors import IdentityError, RemoteProtocolError
from edge_sdk.session import Connected, Event, Nudge, Session, SessionPhase
from edge_sdk.storage.journal import Journal
from edge_sdk.training.update import PackedUpdate as PackedTask
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.messages import DataDescribed, Evaluated

__all__ = ["Agent"]

log = logging.getLogger(__name__)

ROOM_S = 0.5  # between two looks at whether the loop has ended
QUEUE = 2048  # events; a full queue drops messages, which are asked for again
# Seconds without news before asking again: short while somebody waits for us.
NUDGE_S = {
    SessionPhase.FETCH: 3.0,
    SessionPhase.UPLOAD: 5.0,
    SessionPhase.IDLE: 20.0,
    SessionPhase.TRAIN: 60.0,
}


@dataclass(frozen=True)
class _Stepped:
    """Training went on; who looks at the fleet may want to know."""


_Item: TypeAlias = Event | ReceivedMessage | Outcome | Installed | _Stepped


class Agent:
    """Runs one device until told to stop.

    Args:
        identity: Who the device is.
        connect: Makes the transport.
        journal: The device's durable state.
        runner: Trains.
        device_keys: The device's keys; None in a federation of one machine without any.
        limits_enforcer: Keeps to its owner's limits; None where there are none.
        place: Where delivered models go; None refuses them.
        clock: Monotonic seconds.
        on_phase: Told of every change of phase, for a display.
    """

    def __init__(
        self,
        identity: Identity,
        connect: Connect,
        journal: Journal,
        runner: Runner,
        *,
        device_keys: DeviceKeys | None = None,
        limits_enforcer: LimitsEnforcer | None = None,
        place: DeployTarget | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_phase: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._announced, self._clock = topics.announcement(identity.federation), clock
        self._name = identity.name
        self._silence = SilenceWatch(identity.name, identity.federation)
        self._transfer = TransferWatch(identity.name, identity.federation)
        self._linked = False
        self._queue: queue.Queue[_Item | None] = queue.Queue(QUEUE)
        self._stopping = threading.Event()
        self.dropped = 0  # malformed or foreign messages
        self._session_effects = SessionEffects(
            identity,
            partial(connect, self._deliver, self._link),
            journal,
            runner,
            self._put,
            self._stepped,
            device_keys=device_keys,
            limits_enforcer=limits_enforcer,
            place=place,
            clock=clock,
            on_phase=on_phase,
        )
        self._incoming = IncomingMessages(
            identity.federation, self._session_effects, clock
        )

    @property
    def finished(self) -> bool:
        """True once the coordinator has announced the end of the run."""
        return self._incoming.finished

    # -- other threads: enqueue and nothing else ---------------------------------------

    def _deliver(self, delivery: ReceivedMessage) -> None:
        try:
            self._queue.put_nowait(delivery)
        except queue.Full:
            delivery.ack()

    def _link(self, up: bool) -> None:  # noqa: FBT001 - the transport's callback
        self._linked = up
        if up:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(Connected())

    def _put(self, item: _Item) -> None:
        """Waits for room, as long as the loop makes room."""
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=ROOM_S)
                return

    def _stepped(self) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(_Stepped())

    # -- loop --------------------------------------------------------------------------

    def run(self, *, until_done: bool = False) -> None:
        """Runs until `stop`, or until the coordinator announces the end.

        Raises:
            IdentityError: If the coordinator revokes this device.
        """
        session_effects = self._session_effects
        session_effects.boot()
        quiet_since = self._clock()
        while not self._stopping.is_set():
            idle = (
                session_effects.session.phase is SessionPhase.IDLE
                and not session_effects.installer.busy
                and not session_effects.evaluator.busy
            )
            if until_done and self._incoming.finished and idle:
                return
            patience_s = self._patience_s(quiet_since)
            fetching = session_effects.installer.fetching
            try:
                item = self._queue.get(
                    timeout=min(patience_s, ASK_S) if fetching else patience_s
                )
            except queue.Empty:
                if fetching:
                    session_effects.installer.ask_again()
                if not fetching or patience_s <= ASK_S:
                    quiet_since = self._clock()
                    session_effects.feed(Nudge())
                    self._tell_silence()
                continue
            if item is None:  # told to stop
                continue
            if not self._is_for_all(item):  # others' rounds are no answer to us
                quiet_since = self._clock()
            self._handle(item)
            why = session_effects.revoked
            if why is not None:
                raise IdentityError(f"{self._name} was revoked: {why}")

    def stop(self) -> None:
        """Ends `run` soon; the journal keeps the task for the next start."""
        self._stopping.set()  # the queue may be full
        self._session_effects.halt()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def close(self) -> None:
        """Publish the goodbye status, disconnect, and release the journal."""
        self._stopping.set()  # `run` may have ended by an error
        self._session_effects.end()

    def _tell_silence(self) -> None:
        now, phase = self._clock(), self._session_effects.session.phase
        self._silence, said = self._silence.look(now)
        if said:
            log.warning("%s", said)
        if self._linked:
            here = phase, self._incoming.progress, self._incoming.repeats
            self._transfer, said = self._transfer.look(now, *here)
            if said:
                log.warning("%s", said)

    def _is_for_all(self, item: object) -> bool:
        return isinstance(item, ReceivedMessage) and item.topic == self._announced

    def _patience_s(self, quiet_since: float) -> float:
        """Seconds until somebody is asked again."""
        phase = self._session_effects.session.phase
        until = quiet_since + NUDGE_S[phase]
        back_at = self._session_effects.hold.back_at
        if phase is SessionPhase.IDLE and back_at > quiet_since:  # sooner or later
            until = back_at
        return max(until - self._clock(), 0.01)

    def _handle(self, item: _Item) -> None:
        session_effects = self._session_effects
        if isinstance(item, PackedTask):
            session_effects.finish(item)
        elif isinstance(item, _Stepped):
            session_effects.say_status(online=True)
        elif isinstance(item, Evaluated | DataDescribed):
            evaluator, phase = session_effects.evaluator, session_effects.session.phase
            evaluator.finish(item, phase)
        elif isinstance(item, Installed):
            session_effects.installer.finish(item)
        elif isinstance(item, Go | Pause):
            session_effects.mind(item)
        elif isinstance(item, ReceivedMessage):
            self._silence = self._silence.heard(item.topic)
            try:
                self._incoming.hear(item)
            except RemoteProtocolError as error:
                self.dropped += 1
                log.warning("dropped a message on %s: %s", item.topic, error)
            finally:
                item.ack()
        else:
            if isinstance(item, Connected):
                self._silence = self._silence.connected(self._clock())
                self._transfer = self._transfer.connected()
            session_effects.feed(item)
