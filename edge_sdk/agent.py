"""The device agent: runs a session on a transport, a journal and a trainer.

One network thread fills a bounded queue; this loop empties it, advances the pure
session and carries out its effects; one worker thread trains.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec
import psutil
from msgspec import UNSET

from edge_sdk.errors import (
    EdgeError,
    IdentityError,
    LocalProtocolError,
    RemoteProtocolError,
    StateError,
)
from edge_sdk.fetcher import Fetcher
from edge_sdk.governor import Go, Pause, Verdict
from edge_sdk.identity.signatures import Recent, Seal
from edge_sdk.installer import ASK_S, Installed, Installer, Place
from edge_sdk.journal import KEEP_FINISHED, Journal, Record
from edge_sdk.probe.sensors import read_thermal
from edge_sdk.session import (
    Booted,
    Broke,
    Effect,
    Event,
    Fetch,
    Fetched,
    Greet,
    Halt,
    Heard,
    Keep,
    Linked,
    Nudge,
    Packed,
    Phase,
    Say,
    Session,
    Ship,
    Train,
    advance,
)
from edge_sdk.training.counted import counted, steps_of
from edge_sdk.training.local import Stopped
from edge_sdk.training.runner import Packed as PackedTask
from edge_sdk.transport.base import Deliver, Delivery, OnLink, Transport, Will
from edge_sdk.warden import Warden
from edge_sdk.wire import topics
from edge_sdk.wire.blob import (
    blob_id,
    chunk_of,
    chunk_size_for,
    manifest_of,
    positions,
)
from edge_sdk.wire.codec import Envelope, Header, decode, encode, tag_of
from edge_sdk.wire.messages import (
    Announce,
    Certificate,
    Data,
    Fail,
    Hello,
    Install,
    Manifest,
    Message,
    NextKey,
    Offer,
    Receipt,
    Renew,
    Request,
    Revoked,
    Status,
    TaskOrder,
    Wait,
)
from edge_sdk.wire.values import CODECS

__all__ = ["Agent", "Badge", "Connect", "Identity"]

log = logging.getLogger(__name__)

Connect: TypeAlias = Callable[[Deliver, OnLink, Will], Transport]
QUEUE = 2048  # events; a full queue drops messages, which are asked for again
# Seconds without news before asking again: short while somebody waits for us.
NUDGE_S = {Phase.FETCH: 3.0, Phase.UPLOAD: 5.0, Phase.IDLE: 20.0, Phase.TRAIN: 60.0}
COORDINATOR = "coordinator"
STATUS_S = 15.0  # between two statuses of one training, for displays
STALE_S = 60  # a message that is older has been said again


@dataclass(frozen=True)
class _Trained:
    """Training went on; who looks at the fleet may want to know."""


_Item: TypeAlias = Event | Delivery | PackedTask | Verdict | Installed | _Trained


class Runner(Protocol):
    """What the agent asks of training; `edge_sdk.training.runner.TaskRunner` is one."""

    @property
    def engine(self) -> str:
        """Engine of the last task."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here."""
        ...

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedTask:
        """Carries out an order; `structure` is there when its mask names one."""
        ...


class Badge(Protocol):
    """A device's keys; `edge_sdk.identity.folder.DeviceFolder` is one.

    Each method that changes something is durable before it returns.
    """

    @property
    def seal(self) -> Seal:
        """Signs as this device, believes the pinned coordinator."""
        ...

    @property
    def public_key(self) -> bytes:
        """The raw key that this device signs with."""
        ...

    @property
    def number(self) -> int:
        """Which of its keys the coordinator signs with, by what is pinned here."""
        ...

    def adopt(self, number: int, key: bytes) -> bool:
        """Pins the coordinator's next key; whether it is newer than the present one."""
        ...

    def request(self) -> bytes:
        """A signing request for the next keys, made if there are none yet."""
        ...

    def install(self, certificate: bytes) -> bool:
        """Takes the next keys into use with their certificate; whether it fitted."""
        ...


@dataclass(frozen=True)
class Identity:
    """What a device says of itself.

    Attributes:
        name: The device's name.
        federation: The federation's name.
        task: The task's reference.
        examples: How many private examples it has.
        profile: Its device profile, as plain values.
    """

    name: str
    federation: str
    task: str
    examples: int
    profile: dict[str, Any]


class Agent:
    """Runs one device until told to stop.

    Args:
        identity: Who the device is.
        connect: Makes the transport.
        journal: The device's durable state.
        runner: Trains.
        badge: The device's keys; None in a federation of one machine without any.
        warden: Keeps to its owner's limits; None where there are none.
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
        badge: Badge | None = None,
        warden: Warden | None = None,
        place: Place | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_phase: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._badge, self._recent = badge, Recent()
        self._revoked: str | None = None
        self._advice = ""  # why the coordinator last told us to wait
        self._me, self._journal, self._runner = identity, journal, runner
        self._clock, self._on_phase = clock, on_phase
        self._queue: queue.Queue[_Item | None] = queue.Queue(QUEUE)
        self._warden = warden
        self._pause = ""  # why the owner's limits hold us back
        self._back_at = 0.0  # when the coordinator wants to be asked again
        self._day = journal.record.day, journal.record.before_day
        self._progress, self._told_at = 0, 0.0  # of the training, in permille; when
        self._session = Session()
        self._blobs: list[bytes] = []
        self._cancel = threading.Event()
        self._stopping = threading.Event()
        self._worker: threading.Thread | None = None
        self._boot = int.from_bytes(os.urandom(6), "big")
        self._seq = 0
        self._carried = journal.record.sent, journal.record.received
        self.dropped = 0  # malformed or foreign messages
        self.finished = False  # the coordinator announced the end
        will = Will(self._topic_status(), self._pack(self._status(online=False)))
        self._transport = connect(self._deliver, self._link, will)
        self._fetcher = Fetcher(identity.federation, self._transport)
        self._installer = Installer(
            place,
            Fetcher(identity.federation, self._transport),
            self._say,
            self._queue.put,
        )
        if badge is not None:  # first: what follows may be signed with the next key
            self._await_next_key(badge)
        self._transport.subscribe(topics.announcement(identity.federation))
        self._transport.subscribe(topics.inbox(identity.federation, identity.name))

    # -- network thread: enqueue and nothing else --------------------------------------

    def _deliver(self, delivery: Delivery) -> None:
        try:
            self._queue.put_nowait(delivery)
        except queue.Full:
            delivery.ack()

    def _link(self, up: bool) -> None:  # noqa: FBT001 - the transport's callback
        if up:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(Linked())

    # -- loop --------------------------------------------------------------------------

    def run(self, *, until_done: bool = False) -> None:
        """Runs until `stop`, or until the coordinator announces the end.

        Raises:
            IdentityError: If the coordinator revokes this device.
        """
        record = self._journal.record
        past = tuple(record.finished)
        self._feed(Booted(record.epoch, record.order, record.offer, past))
        quiet_since = self._clock()
        while not self._stopping.is_set():
            idle = self._session.phase is Phase.IDLE and not self._installer.busy
            if until_done and self.finished and idle:
                return
            patience_s = self._patience_s(quiet_since)
            fetching = self._installer.fetching
            try:
                item = self._queue.get(
                    timeout=min(patience_s, ASK_S) if fetching else patience_s
                )
            except queue.Empty:
                if fetching:
                    self._installer.ask_again()
                if not fetching or patience_s <= ASK_S:
                    quiet_since = self._clock()
                    self._feed(Nudge())
                continue
            if item is None:  # told to stop
                continue
            if not self._is_for_all(item):  # others' rounds are no answer to us
                quiet_since = self._clock()
            self._handle(item)
            if self._revoked is not None:
                raise IdentityError(f"{self._me.name} was revoked: {self._revoked}")

    def stop(self) -> None:
        """Ends `run` soon; the journal keeps the task for the next start."""
        self._stopping.set()  # the queue may be full
        self._cancel.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def close(self) -> None:
        """Says goodbye, disconnects, lets the journal go."""
        self._cancel.set()
        if self._worker is not None:
            self._worker.join(timeout=10)
        self._installer.close(10)
        try:
            self._publish_status(online=False)
            self._keep(None)
        finally:  # a full disk must not hold the link and the folder
            self._transport.close()
            self._journal.close()

    def _is_for_all(self, item: object) -> bool:
        announced = topics.announcement(self._me.federation)
        return isinstance(item, Delivery) and item.topic == announced

    def _patience_s(self, quiet_since: float) -> float:
        """Seconds until somebody is asked again."""
        until = quiet_since + NUDGE_S[self._session.phase]
        if self._session.phase is Phase.IDLE:
            until = max(until, self._back_at)
        return max(until - self._clock(), 0.01)

    def _handle(self, item: _Item) -> None:
        if isinstance(item, PackedTask):
            self._finish(item)
        elif isinstance(item, _Trained):
            self._publish_status(online=True)
        elif isinstance(item, Installed):
            self._installer.finish(item)
        elif isinstance(item, Go | Pause):
            self._mind(item)
        elif isinstance(item, Delivery):
            try:
                self._hear(item)
            except RemoteProtocolError as error:
                self.dropped += 1
                log.warning("dropped a message on %s: %s", item.topic, error)
            finally:
                item.ack()
        else:
            if isinstance(item, Linked):
                self._fit_offer()
            self._feed(item)

    def _hear(self, delivery: Delivery) -> None:
        topic = topics.parse(delivery.topic, self._me.federation)
        if isinstance(topic, topics.Chunk):
            self._take_chunk(topic, delivery.topic, delivery.payload)
            return
        if not delivery.payload:  # a retained topic was wiped
            return
        seal = self._badge.seal if self._badge else None
        envelope = decode(delivery.payload, verify=seal.verify if seal else None)
        header = envelope.header
        if (
            header.source != COORDINATOR
            or header.federation != self._me.federation
            or header.destination not in (self._me.name, "all")
        ):
            raise RemoteProtocolError(
                f"it goes from {header.source[:64]!r} to {header.destination[:64]!r}"
            )
        retained = isinstance(envelope.message, Announce | NextKey)
        if seal and not retained and not self._recent.take(header):
            return  # delivered twice, or sent again by somebody else
        stale = header.epoch < self._session.epoch
        if self._badge is not None and self._tend(self._badge, envelope, stale=stale):
            return
        if not stale:
            self._heed(envelope.message)
        if isinstance(envelope.message, TaskOrder) and self._declines(envelope.message):
            return
        self._feed(Heard(header.epoch, envelope.message))
        if not stale:
            self._follow(envelope.message)

    def _follow(self, message: Message) -> None:
        """Does what is no part of a session."""
        match message:
            case Install():  # none begins where the owner's limits forbid work
                if self._installer.busy or not isinstance(self._verdict(), Pause):
                    self._installer.take(message)
            case Announce(state):
                self.finished = state == "done"
                if self.finished:  # the run's last word on what it cost
                    self._publish_status(online=True)
            case _:
                pass

    def _heed(self, message: Message) -> None:
        """Notes what the coordinator advises, and says it to whoever reads the log."""
        match message:
            case Wait(ms, why):
                self._back_at = self._clock() + ms / 1000
                if why != self._advice:
                    self._advice = why
                    log.info("the coordinator says: %s", why)
            case Receipt(task_id, verdict, why) if why:
                log.warning("task %s: %s: %s", task_id, verdict, why)
            case _:
                pass

    def _await_next_key(self, badge: Badge) -> None:
        topic = topics.next_key(self._me.federation, badge.number + 1)
        self._transport.subscribe(topic)

    def _tend(self, badge: Badge, envelope: Envelope, *, stale: bool) -> bool:
        """Sees to messages about keys; whether this was one."""
        match envelope.message:
            case Revoked(key, why):
                if key == badge.public_key:  # not one that we had before
                    self._revoked = why
            case NextKey(number, key):  # of any epoch: it is signed with the pinned key
                if badge.adopt(number, key):
                    log.info("the coordinator signs with key %d from now on", number)
                    self._await_next_key(badge)
                    # What came before this key was not believed: hear it again.
                    self._transport.subscribe(topics.announcement(self._me.federation))
            case Renew(why) if not stale:
                log.info("renewing the certificate: %s", why)
                self._say(Request(badge.request()))
            case Certificate(certificate) if not stale:
                if badge.install(certificate):
                    log.info("the new certificate is in use")
            case Renew() | Certificate():
                pass
            case _:
                return False
        return True

    def _feed(self, event: Event) -> None:
        before = self._session
        self._session, effects = advance(before, event)
        for effect in effects:
            self._do(effect)
        if self._session.phase is not before.phase or isinstance(event, Linked):
            self._publish_status(online=True)
            self._on_phase(self._session)

    # -- the owner's limits ------------------------------------------------------------

    def _verdict(self) -> Verdict:
        return self._warden.verdict(self._moved_today()) if self._warden else Go()

    def _declines(self, order: TaskOrder) -> bool:
        """Gives a new task back at once where the owner's limits forbid work now."""
        if self._session.order is not None and self._session.order.id == order.id:
            return False
        verdict = self._verdict()
        self._mind(verdict)
        if not isinstance(verdict, Pause):
            return False
        self._say(Fail(order.id, verdict.why))
        return True

    def _mind(self, verdict: Verdict) -> None:
        """Tells the coordinator when a pause begins, lasts longer, or ends."""
        pausing = isinstance(verdict, Pause)
        told = self._clock() < self._back_at if pausing else True
        if told and pausing == bool(self._pause):
            return
        self._pause = verdict.why if isinstance(verdict, Pause) else ""
        seconds = verdict.seconds if isinstance(verdict, Pause) else 0.0
        self._back_at = self._clock() + seconds  # then we look again
        self._say(Wait(int(1000 * seconds), self._pause))
        self._publish_status(online=True)

    def _moved_today(self) -> int:
        """Bytes both ways since local midnight, restarts included."""
        moved = sum(self._totals())
        today = self._warden.today() if self._warden else ""
        if today != self._day[0]:
            self._day = today, moved
        return moved - self._day[1]

    # -- effects -----------------------------------------------------------------------

    def _do(self, effect: Effect) -> None:
        match effect:
            case Keep(finished):
                self._keep(finished)
            case Say(message):
                self._say(message)
            case Greet():
                self._say(self._hello())
                self._installer.greet()
                if self._session.phase is not Phase.TRAIN:  # there, training looks
                    self._mind(self._verdict())
            case Fetch(blobs):
                self._fetch(blobs)
            case Train(order):
                self._train(order)
            case Halt():
                self._halt()
            case Ship(task_id, ranges, credit):
                self._ship(task_id, ranges, credit)

    def _keep(self, finished: tuple[str, str] | None) -> None:
        past = list(self._journal.record.finished)
        if finished is not None and finished[0]:
            past.append(finished)
            log.info("task %s: %s", *finished)
        made, offer = list(self._journal.record.packed), self._session.offer
        if offer is not None and (not made or made[-1][0] != offer.task_id):
            made.append((offer.task_id, offer.manifest.sha256))
        sent, received = self._totals()
        record = Record(
            epoch=self._session.epoch,
            order=self._session.order,
            offer=self._session.offer,
            sent=sent,
            received=received,
            finished=past[-KEEP_FINISHED:],
            packed=made[-KEEP_FINISHED:],
            day=self._day[0],
            before_day=self._day[1],
        )
        self._journal.keep(record)

    def _fetch(self, blobs: tuple[Manifest, ...]) -> None:
        if self._fetcher.wanted == blobs:
            for need in self._fetcher.needs():
                self._say(need)
        else:
            try:
                here = self._journal.blobs
                self._fetcher.begin(blobs, lambda blob: here.open(blob, blobs))
            except EdgeError as error:  # asked for again, it breaks again
                self._break_off(error)
                return
        self._go_on_fetching()

    def _go_on_fetching(self) -> None:
        self._fetcher.ask()
        if not self._fetcher.whole:
            return
        base = blob_id(self._fetcher.wanted[0])
        try:
            self._blobs = self._fetcher.contents()
        except EdgeError as error:
            self._break_off(error)
            return
        self._feed(Fetched(base))

    def _take_chunk(self, topic: topics.Chunk, name: str, chunk: bytes) -> None:
        self._installer.chunk(topic, name, chunk)
        try:
            self._fetcher.take(topic, name, chunk)
        except StateError as error:
            self._break_off(error)
            return
        self._go_on_fetching()

    def _break_off(self, error: EdgeError) -> None:
        """Gives the task in hand back: its base cannot be had."""
        if self._session.order is not None:
            self._feed(Broke(self._session.order.id, str(error)))

    def _train(self, order: TaskOrder) -> None:
        cancel, (base, *structure) = threading.Event(), self._blobs
        self._cancel, before = cancel, self._worker

        def work() -> None:
            if before is not None:  # a halted task may still be in its last step,
                before.join()  # and the runner's model is one for all tasks
            result: PackedTask | Broke
            try:
                stop = self._between_steps(order, cancel)
                result = self._runner.run(order, base, stop, *structure)
            except Stopped:
                return
            except EdgeError as error:
                result = Broke(order.id, f"{error} {error.help}")
            except Exception as error:  # a user's model may raise anything
                log.exception("training of task %s failed", order.id)
                result = Broke(order.id, f"{type(error).__name__}: {error}")
            if not cancel.is_set():
                self._queue.put(result)

        self._worker = threading.Thread(target=work, name="train", daemon=True)
        self._worker.start()

    def _between_steps(
        self, order: TaskOrder, cancel: threading.Event
    ) -> Callable[[], bool]:
        """What training asks before each step: whether to stop."""
        stop: Callable[[], bool] = cancel.is_set
        if self._warden is not None:
            stop = self._warden.between_steps(
                cancel.is_set, self._moved_today, self._queue.put
            )
        return counted(stop, steps_of(order.training, self._me.examples), self._trains)

    def _trains(self, permille: int) -> None:
        """Called by the training thread before each step."""
        self._progress = permille
        if self._clock() - self._told_at >= STATUS_S:
            self._told_at = self._clock()
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(_Trained())

    def _finish(self, packed: PackedTask) -> None:
        """The payload lies in the outbox before the session promises it."""
        order = self._session.order
        if order is None or order.id != packed.offer.task_id:
            return
        self._journal.stash(packed.payload)
        self._feed(Packed(self._in_chunks(packed.offer, packed.payload)))

    def _fit_offer(self) -> None:
        """Offers the same update in smaller chunks, if this broker needs them."""
        offer = self._session.offer
        if offer is not None:
            fitted = self._in_chunks(offer, b"")
            if fitted is not offer:
                self._feed(Packed(fitted))

    def _in_chunks(self, offer: Offer, payload: bytes) -> Offer:
        """The offer in chunks that the broker takes; the payload may be looked up."""
        try:
            size = chunk_size_for(self._transport.limit())
            if offer.manifest.chunk_size <= size:
                return offer
            manifest = manifest_of(payload or self._journal.payload(), size)
        except LocalProtocolError as error:  # not through this broker
            log.error("an update cannot be sent: %s %s", error, error.help)  # noqa: TRY400
            return offer
        return msgspec.structs.replace(offer, manifest=manifest)

    def _halt(self) -> None:
        self._cancel.set()
        self._fetcher.drop()

    def _ship(
        self, task_id: str, ranges: tuple[tuple[int, int], ...], credit: int
    ) -> None:
        offer = self._session.offer
        if offer is None:
            return
        payload = self._journal.payload()
        wanted = list(positions(ranges, len(offer.manifest.chunks)))[:credit]
        for index in wanted:
            data = Data(task_id, index, chunk_of(payload, offer.manifest, index))
            self._say(data, shard=self._shard(), data=True)

    # -- messages ----------------------------------------------------------------------

    def _shard(self) -> int:
        return self._session.order.shard if self._session.order else 0

    def _say(self, message: Message, *, shard: int = 0, data: bool = False) -> None:
        topic = topics.upload(
            self._me.federation, self._me.name, shard or self._shard(), data=data
        )
        self._transport.publish(topic, self._pack(message), expires_s=STALE_S)

    def _pack(self, message: Message) -> bytes:
        self._seq += 1
        header = Header(
            type=tag_of(message),
            federation=self._me.federation,
            source=self._me.name,
            destination=COORDINATOR,
            epoch=self._session.epoch,
            seq=self._seq,
            boot=self._boot,
            round_no=self._session.order.round_no if self._session.order else 0,
        )
        return encode(
            header, message, sign=self._badge.seal.sign if self._badge else None
        )

    def _hello(self) -> Hello:
        order = self._session.order
        return Hello(
            phase=self._session.phase.value,
            task_id=order.id if order else None,
            version=_version(),
            task=self._me.task,
            examples=self._me.examples,
            profile=self._me.profile,
            codecs=list(CODECS),
            engines=list(self._runner.engines),
            free_disk_mib=shutil.disk_usage(Path.cwd()).free >> 20,
        )

    def _status(self, *, online: bool) -> Status:
        sent, received = self._totals()
        order = self._session.order
        celsius = read_thermal().celsius
        training = self._session.phase is Phase.TRAIN
        return Status(
            online=online,
            phase=self._session.phase.value,
            round_no=order.round_no if order else 0,
            engine=self._runner.engine,
            detail=self._pause,
            sent=sent,
            received=received,
            rss_mib=psutil.Process().memory_info().rss >> 20,
            celsius=UNSET if celsius is None else round(celsius, 1),
            progress=self._progress if training else UNSET,
        )

    def _topic_status(self) -> str:
        return topics.status(self._me.federation, self._me.name)

    def _publish_status(self, *, online: bool) -> None:
        self._told_at = self._clock()
        payload = self._pack(self._status(online=online))
        self._transport.publish(self._topic_status(), payload, retain=True, sure=False)

    def _totals(self) -> tuple[int, int]:
        if not hasattr(self, "_transport"):
            return self._carried
        live = self._transport.traffic()
        return self._carried[0] + live.sent, self._carried[1] + live.received


def _version() -> str:
    try:
        return version("flash-edge")
    except PackageNotFoundError:
        return "unknown"
