"""The session, and what each of its effects does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import UNSET
from msgspec.structs import replace

from edge_sdk.agent.evaluator import DeviceEvaluator
from edge_sdk.agent.parts import DeviceKeys, Identity, Runner
from edge_sdk.agent.pause import TrainingPause, held
from edge_sdk.agent.publisher import DevicePublisher, hello_of, status_of
from edge_sdk.agent.receiver import OrderReceiver
from edge_sdk.agent.secure import SecureAggregator
from edge_sdk.agent.traffic import Marks, TrafficCounter, record_after
from edge_sdk.agent.training_thread import Outcome, TrainingThread
from edge_sdk.agent.transfer import BaseDownload, chunks_asked_for, in_chunks
from edge_sdk.deploy.delivered_bundle import Installed
from edge_sdk.deploy.installer import Installer
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.device.limits.decision import Go, Pause, Verdict
from edge_sdk.device.limits.enforcement import LimitsEnforcer
from edge_sdk.errors import EdgeError, two_sentences
from edge_sdk.session import (
    Booted,
    Broke,
    Connected,
    Effect,
    Event,
    Fetch,
    Fetched,
    Greet,
    Halt,
    Keep,
    Say,
    Session,
    SessionPhase,
    Ship,
    Train,
    UpdatePacked,
    advance,
)
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.storage.journal import Journal
from edge_sdk.training.update import PackedUpdate as PackedTask
from edge_sdk.transport.base import Transport, Will
from edge_sdk.wire import topics
from edge_sdk.wire.messages import Fail, Message, TaskOrder

__all__ = ["SessionEffects"]

log = logging.getLogger(__name__)

STALE_S = 60  # a message that is older has been said again


class SessionEffects:
    """The effects of a session's events; the agent's loop calls every method.

    Args:
        me: Who the device is.
        connect: Makes the transport.
        journal: The device's durable state.
        runner: Trains.
        put: Puts what other threads tell into the loop's queue.
        stepped: Called by the training thread four times a minute.
        device_keys: The device's keys; None without any.
        limits_enforcer: Keeps to its owner's limits; None where there are none.
        place: Where delivered models go; None refuses them.
        clock: Monotonic seconds.
        on_phase: Told of every change of phase.
    """

    def __init__(
        self,
        me: Identity,
        connect: Callable[[Will], Transport],
        journal: Journal,
        runner: Runner,
        put: Callable[[Outcome | Installed], None],
        stepped: Callable[[], None],
        *,
        device_keys: DeviceKeys | None,
        limits_enforcer: LimitsEnforcer | None,
        place: DeployTarget | None,
        clock: Callable[[], float],
        on_phase: Callable[[Session], None],
    ) -> None:
        self._me, self._journal, self._runner = me, journal, runner
        self._limits_enforcer, self._clock = limits_enforcer, clock
        self._on_phase, self._told = on_phase, me.examples  # the last HELLO's
        self.session, self.hold = Session(), TrainingPause()
        kept = journal.record
        self._publisher = DevicePublisher(me, device_keys, clock)
        self._meter = TrafficCounter(kept)
        moved = self._moved_today
        self._work = TrainingThread(
            runner, me.examples, limits_enforcer, moved, put, stepped, clock
        )
        self._link = 0  # how many connections a will was made for
        self._topic = topics.status(me.federation, me.name)
        will = Will(self._topic, self._pack_will(), self._pack_will)
        self.transport = transport = connect(will)
        self._meter.watch(transport.traffic)
        base, bundle, test = (Fetcher(me.federation, transport) for _ in range(3))
        self._base = BaseDownload(base, journal, self._say)
        self.installer = Installer(place, bundle, self._say, put, journal.own)
        given = test, journal.blobs, self._say, self._work
        self.evaluator = DeviceEvaluator(*given, journal.memory.of)
        marks = Marks(kept.heard, kept.announced)
        secret = me, device_keys, journal.secure, self._say
        self.secure = SecureAggregator(*secret, self.finish, self.feed)
        self.receiver = OrderReceiver(
            me, device_keys, transport, self._say, self._publisher.age_s, marks
        )

    @property
    def revoked(self) -> str | None:
        """The reason why the coordinator no longer accepts this device, or None."""
        return self.receiver.revoked

    def boot(self) -> None:
        """Picks up what the journal has kept."""
        kept = self._journal.record
        self.feed(Booted(kept.epoch, kept.order, kept.offer, tuple(kept.finished)))

    def halt(self) -> None:
        """Ends training before its next step; the one method for any thread."""
        self._work.stop()

    def end(self) -> None:
        """Publish the goodbye status, disconnect, and release the journal."""
        self._work.stop()
        self._work.join(10)
        self.installer.close(10)
        try:
            self.say_status(online=False)
            self._keep(None)
        finally:  # a full disk must not hold the link and the folder
            self.transport.close()
            self._journal.close()

    def chunk(self, topic: topics.ChunkTopic, name: str, chunk: bytes) -> None:
        """A chunk of a delivery, a test or a base arrived.

        Raises:
            RemoteProtocolError: If it is not what its manifest names.
        """
        self.installer.chunk(topic, name, chunk)
        self.evaluator.chunk(topic, name, chunk, self.session.phase)
        self._fetched(self._base.take(topic, name, chunk))

    def feed(self, event: Event) -> None:
        """Advances the session and does what it says, in order."""
        if isinstance(event, Connected):
            self._fit_offer()
        before = self.session
        self.session, effects = advance(before, event)
        for effect in effects:
            self._do(effect)
        self.evaluator.begin(self.session.order)
        if self.session.phase is not before.phase or isinstance(event, Connected):
            self.say_status(online=True)
            self._on_phase(self.session)
            self.evaluator.go_on(self.session.phase)

    def verdict(self) -> Verdict:
        """The owner's limits' word on work at this moment."""
        enforcer = self._limits_enforcer
        return enforcer.verdict(self._moved_today()) if enforcer else Go()

    def declines(self, order: TaskOrder) -> bool:
        """Decline a new task at once if the owner's limits forbid training now."""
        if self.session.order is not None and self.session.order.id == order.id:
            return False
        verdict = self.verdict()
        self.mind(verdict)
        if not isinstance(verdict, Pause):
            return False
        self._say(Fail(order.id, verdict.why))
        return True

    def mind(self, verdict: Verdict) -> None:
        """Tells the coordinator when a pause begins, lasts longer, or ends."""
        told = held(self.hold, verdict, self._clock())
        if told is None:
            return
        self.hold, wait = told
        self._say(wait)
        self.say_status(online=True)
        if not self.hold.why and not self._told and self._me.examples_now:
            self._do(Greet())  # its source is back

    def _moved_today(self) -> int:
        """Bytes both ways since local midnight, restarts included."""
        enforcer = self._limits_enforcer
        return self._meter.moved_on(enforcer.today() if enforcer else "")

    def _do(self, effect: Effect) -> None:
        match effect:
            case Keep(finished):
                self._keep(finished)
            case Say(message):
                self._say(self.evaluator.with_answer(message))
            case Greet():
                self.evaluator.greet(self.session.phase)
                hello = hello_of(self._me, self.session, self._runner.engines)
                self._told = hello.examples
                self._say(hello)
                self.installer.greet()
                if self.session.phase is not SessionPhase.TRAIN:  # it looks itself
                    self.mind(self.verdict())
            case Fetch(blobs):
                self._fetched(self._base.fetch(blobs))
            case Train(order):
                self.evaluator.interrupt()
                memory = self._journal.memory.read(order)
                self._work.start(order, self._base.blobs, memory)
            case Halt():
                self._work.cancel()
                self._base.drop()
            case Ship():
                self._ship(effect)

    def _keep(self, finished: tuple[str, str] | None) -> None:
        if finished is not None and finished[0]:
            log.info("task %s: %s", *finished)
        given = self.session, finished, self._meter, self.receiver.marks
        self._journal.keep(record_after(self._journal.record, *given))

    def _fetched(self, found: Fetched | EdgeError | None) -> None:
        """The base is here; or it cannot be had, and the task is given back."""
        if isinstance(found, Fetched):
            self.feed(found)
        elif found is not None and self.session.order is not None:
            log.warning("the task's model cannot be fetched: %s", found)
            self.feed(Broke(self.session.order.id, two_sentences(found, found.help)))

    def finish(self, packed: PackedTask) -> None:
        """The payload lies in the outbox before the session promises it."""
        order = self.session.order
        if order is None or order.id != packed.offer.task_id:
            return
        if (sent := self.secure.masked(order, packed)) is None:
            return
        packed = sent
        if packed.memory:
            self._journal.memory.keep(order, packed.memory)
        self._journal.stash(packed.payload)
        if self._me.examples_now != self._told:  # more may count than were known
            self._do(Greet())
        limit = self.transport.limits().packet
        offer = replace(packed.offer, consent=self._me.consent or UNSET)
        self.feed(UpdatePacked(in_chunks(offer, limit, lambda: packed.payload)))

    def _fit_offer(self) -> None:
        """Offers the same update in smaller chunks, if this broker needs them."""
        offer = self.session.offer
        if offer is not None:
            limit = self.transport.limits().packet
            fitted = in_chunks(offer, limit, self._journal.payload)
            if fitted is not offer:
                self.feed(UpdatePacked(fitted))

    def _ship(self, ship: Ship) -> None:
        if (offer := self.session.offer) is not None:
            for data in chunks_asked_for(ship, offer, self._journal.payload()):
                self._say(data, data=True)

    def _say(self, message: Message, *, data: bool = False) -> None:
        shard = self.session.order.shard if self.session.order else 0
        topic = topics.upload(self._me.federation, self._me.name, shard, data=data)
        packet = self._publisher.pack(message, self.session)
        self.transport.publish(topic, packet, expires_s=STALE_S)

    def _pack_status(self, *, online: bool) -> bytes:
        enforcer = self._limits_enforcer
        status = status_of(
            *(self._me, self.session, self._meter.totals),
            online=online,
            engine=self._runner.engine,
            pause=self.hold.why,
            progress=self._work.progress,
            link=self._link,
            open_minutes=enforcer.open_minutes() if enforcer else None,
        )
        return self._publisher.pack(status, self.session)

    def _pack_will(self) -> bytes:
        """The will of the next connection; called between two of them."""
        self._link += 1
        return self._pack_status(online=False)

    def say_status(self, *, online: bool) -> None:
        """Publish the device's status for displays."""
        self._work.told_at = self._clock()
        payload = self._pack_status(online=online)
        self.transport.publish(self._topic, payload, retain=True, sure=False)
