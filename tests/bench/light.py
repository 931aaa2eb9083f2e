"""Light devices: the real protocol without training, many in one process.

Each has its own broker connection and runs the agent's own state machine
(`edge_sdk.session`) on real messages; instead of training it sends an update of its own
that passes the gate. Run as a process:
    python tests/bench/light.py URL FEDERATION TASK N JSON PID
PID is the coordinator's: its CPU time is read at each round's first OFFER and at its
last RECEIPT.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

import msgspec

from coordinator.rounds.tasks import round_of
from device_profiles import load_board
from edge_sdk.session import (
    Booted,
    Connected,
    Event,
    Fetch,
    Fetched,
    Greet,
    Heard,
    Nudge,
    Say,
    Session,
    SessionPhase,
    Ship,
    Train,
    UpdatePacked,
    advance,
)
from edge_sdk.training.runner import TaskRunner  # noqa: F401 - torch before the clock
from edge_sdk.transport.address import parse_url
from edge_sdk.wire import topics
from edge_sdk.wire.blob import Assembly, blob_id, positions
from edge_sdk.wire.codec import Header, decode, encode, tag_of
from edge_sdk.wire.messages import (
    Announce,
    Data,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    Status,
    TaskOrder,
)
from edge_sdk.wire.values import CODECS

sys.path.insert(0, str(Path(__file__).parent))
from light_mqtt import LightMqtt
from light_updates import Updates

NUDGE_S = 15.0
EXAMPLES = 100
CONNECTS_AT_ONCE = 50


class LightDevice:
    """One device: a session, a connection, no disk and no training."""

    def __init__(self, number: int, federation: str, task: str, fleet: Fleet) -> None:
        self.name, self._number, self._fleet = f"light-{number:04}", number, fleet
        self._federation, self._task = federation, task
        self._session, self._seq = Session(), 0
        self._fetching: list[Assembly] = []
        self._base = b""
        will = topics.status(federation, self.name), self._pack(Status(False, "idle"))
        self.link = LightMqtt(self.name, self._linked, self._take, will)
        self.quiet_since = time.monotonic()
        self._feed(Booted(0, None, None))

    def nudge(self) -> None:
        self.quiet_since = time.monotonic()
        self._feed(Nudge())

    def _linked(self) -> None:
        self.link.subscribe(
            topics.announcement(self._federation),
            topics.inbox(self._federation, self.name),
        )
        self._feed(Connected())
        self._status()

    def _take(self, topic: str, payload: bytes) -> None:
        self.quiet_since = time.monotonic()
        where = topics.parse(topic, self._federation)
        if isinstance(where, topics.ChunkTopic):
            for assembly in self._fetching:
                if payload and blob_id(assembly.manifest) == where.blob:
                    assembly.add(where.index, payload)
            self._fetched()
        elif payload:
            self._hear(payload)

    def _hear(self, payload: bytes) -> None:
        envelope = decode(payload)
        message = envelope.message
        if isinstance(message, Announce) and message.state == "done":
            self._fleet.done.set()
            self._status()
        if isinstance(message, Receipt):
            self._fleet.receipt(message)
        self._feed(Heard(envelope.header.epoch, message))

    def _feed(self, event: Event) -> None:
        before = self._session.phase
        self._session, effects = advance(self._session, event)
        for effect in effects:
            match effect:
                case Say(message):
                    self._say(message)
                case Greet():
                    self._say(self._hello())
                case Fetch(blobs):
                    self._fetch(blobs)
                case Train(order):
                    self._train(order)
                case Ship(task_id, ranges, credit):
                    self._ship(task_id, ranges, credit)
                case _:
                    pass
        if before not in (SessionPhase.BOOT, self._session.phase):
            self._status()

    def _fetch(self, blobs: tuple[object, ...]) -> None:
        if tuple(a.manifest for a in self._fetching) == blobs:  # asked again
            for assembly in self._fetching:
                if assembly.missing():
                    need = Need(blob_id(assembly.manifest), assembly.missing(), 32)
                    self._say(need)
            return
        self._fetching = [Assembly(manifest) for manifest in blobs]  # type: ignore[arg-type]
        self.link.subscribe(*self._chunks())

    def _chunks(self) -> list[str]:
        return [
            topics.chunk(self._federation, blob_id(a.manifest), i)
            for a in self._fetching
            for i in range(len(a.manifest.chunks))
        ]

    def _fetched(self) -> None:
        if self._fetching and all(a.complete for a in self._fetching):
            self.link.unsubscribe(*self._chunks())
            first = self._fetching[0]
            self._base, self._fetching = first.content(), []
            self._feed(Fetched(blob_id(first.manifest)))

    def _train(self, order: TaskOrder) -> None:
        self._update = update = self._fleet.updates.of(order, self._base)
        offer = Offer(
            order.id,
            update.manifest(self._number),
            order.mask.digest,
            order.codec,
            EXAMPLES,
            update.norm,
            {"loss": 1.0, "steps": 1.0, "training_s": 0.01, "seconds": 0.02},
        )
        self._fleet.offers(order.round_no)
        self._feed(UpdatePacked(offer))

    def _ship(
        self, task_id: str, ranges: tuple[tuple[int, int], ...], credit: int
    ) -> None:
        offer = self._session.offer
        if offer is None:
            return
        for index in list(positions(ranges, len(offer.manifest.chunks)))[:credit]:
            chunk = self._update.chunk(self._number, index)
            self._say(Data(task_id, index, chunk), data=True)

    def _hello(self) -> Hello:
        order = self._session.order
        return Hello(
            phase=self._session.phase.value,
            task_id=order.id if order else None,
            version="0",
            task=self._task,
            examples=EXAMPLES,
            profile=self._fleet.profile,
            codecs=list(CODECS),
            engines=["masked"],
            free_disk_mib=1000,
        )

    def _status(self) -> None:
        status = self._pack(Status(online=True, phase=self._session.phase.value))
        topic = topics.status(self._federation, self.name)
        self.link.publish(topic, status, qos=0, retain=True)

    def _say(self, message: Message, *, data: bool = False) -> None:
        shard = self._session.order.shard if self._session.order else 0
        topic = topics.upload(self._federation, self.name, shard, data=data)
        self.link.publish(topic, self._pack(message))

    def _pack(self, message: Message) -> bytes:
        self._seq += 1
        order = self._session.order
        header = Header(
            type=tag_of(message),
            federation=self._federation,
            source=self.name,
            destination="coordinator",
            epoch=self._session.epoch,
            seq=self._seq,
            boot=1 + self._number,
            round_no=order.round_no if order else 0,
        )
        return encode(header, message)


class Fleet:
    """All light devices of one process, and what they saw."""

    def __init__(self, task: str, coordinator: int) -> None:
        self.updates, self.done = Updates(task), asyncio.Event()
        # Linux's clock of another process's processor time: psutil's takes .1 ms.
        self._coordinator, self._last_cpu_s = (~coordinator << 3) | 2, 0.0
        self.profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        self.seen: dict[int, dict[str, float]] = {}
        self.stray = 0  # receipts for what nobody here had offered

    def offers(self, round_no: int) -> None:
        if round_no not in self.seen:
            now = {"first_offer": time.monotonic(), "cpu_before_s": self._cpu_s()}
            self.seen[round_no] = now

    def receipt(self, receipt: Receipt) -> None:
        """Counts a verdict in its task's round, whichever is in hand when it comes.

        Only one on an accepted update ends a round: a late one may come rounds after.
        """
        row = self.seen.get(round_of(receipt.task_id))
        if row is None:
            self.stray += 1
            return
        row[receipt.verdict] = row.get(receipt.verdict, 0) + 1
        if receipt.verdict == "accepted":
            row["last_receipt"], row["cpu_after_s"] = time.monotonic(), self._cpu_s()

    def _cpu_s(self) -> float:
        with contextlib.suppress(OSError):  # it ends with its last receipt
            self._last_cpu_s = time.clock_gettime(self._coordinator)
        return self._last_cpu_s


async def _run(
    url: str, federation: str, task: str, count: int, coordinator: int
) -> dict[str, object]:
    address, fleet = parse_url(url), Fleet(task, coordinator)
    loop = asyncio.get_running_loop()
    devices = [LightDevice(i, federation, task, fleet) for i in range(count)]
    for start in range(0, count, CONNECTS_AT_ONCE):
        batch = devices[start : start + CONNECTS_AT_ONCE]
        await asyncio.gather(
            *(
                loop.create_connection(lambda d=d: d.link, address.host, address.port)  # type: ignore[misc]
                for d in batch
            )
        )
    while not fleet.done.is_set():
        await asyncio.wait([asyncio.create_task(fleet.done.wait())], timeout=0.5)
        late = time.monotonic() - NUDGE_S
        for device in devices:
            if device.quiet_since < late:
                device.nudge()
    await asyncio.sleep(0.2)
    lost = sum(device.link.lost for device in devices)
    for device in devices:
        device.link.close()
    return {
        "rounds": fleet.seen,
        "stray": fleet.stray,
        "lost": lost,
        "cpu_s": time.process_time(),
    }


if __name__ == "__main__":
    URL, FEDERATION, TASK, COUNT, OUT, PID = sys.argv[1:]
    FOUND = asyncio.run(_run(URL, FEDERATION, TASK, int(COUNT), int(PID)))
    Path(OUT).write_text(json.dumps(FOUND))
