"""Two real agents over the in-memory broker, with a coordinator written as a script."""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from patience import patience, waited

from device_profiles import Caps
from edge_sdk.agent import Agent, Identity, loop
from edge_sdk.agent import training_thread as work
from edge_sdk.device.limits.decision import Conditions
from edge_sdk.device.limits.enforcement import LimitsEnforcer
from edge_sdk.device.probe.sensors import Power, Thermal
from edge_sdk.errors import EngineError, StateError
from edge_sdk.session import SessionPhase
from edge_sdk.storage.journal import Journal
from edge_sdk.training.local import Stopped
from edge_sdk.training.update import PackedUpdate
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.memory import MemoryBroker, MemoryTransport
from edge_sdk.wire import topics
from edge_sdk.wire.blob import Assembly, blob_id, chunk_of, manifest_of
from edge_sdk.wire.codec import Envelope, Header, decode, encode, tag_of
from edge_sdk.wire.messages import (
    Announce,
    Cancel,
    Data,
    Fail,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    Status,
    TaskAck,
    TaskOrder,
    Wait,
)

Orders = Callable[..., TaskOrder]
Offers = Callable[..., Offer]
WAIT_S = patience(20.0)
BASE = bytes(range(256)) * 600  # three chunks


class Trainer:
    """Trains by adding the device's name to the base; may be held or told to break."""

    engine = "masked"
    engines = ("masked",)

    def __init__(self, name: str, offers: Offers) -> None:
        self.name, self.offers = name, offers
        self.trained: list[str] = []
        self.structures: list[bytes] = []
        self.go = threading.Event()
        self.go.set()
        self.breaks: Exception | None = None
        self.running, self.at_once = 0, 0

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedUpdate:
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            assert base == BASE
            self.structures.append(structure)
            while not self.go.wait(0.005):
                if stop():
                    raise Stopped
            if self.breaks is not None:
                raise self.breaks
            self.trained.append(order.id)
            payload = self.name.encode() * 30_000  # several chunks
            return PackedUpdate(self.offers(order.id, payload), payload)
        finally:
            self.running -= 1


class Coordinator:
    """Says what the test says, and collects what the devices say."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.said: queue.Queue[Envelope] = queue.Queue()
        self.aside: list[Envelope] = []  # heard while listening to another device
        self.link = broker.connect(self._deliver, lambda _: None)
        self.seq = 0
        for data in (False, True):
            self.link.subscribe(topics.all_uploads("demo", data=data))

    def _deliver(self, delivery: ReceivedMessage) -> None:
        self.said.put(decode(delivery.payload))

    def pack(self, message: Message, **changes: Any) -> bytes:
        self.seq += 1
        head = Header(
            type=tag_of(message),
            federation="demo",
            source="coordinator",
            destination="all",
            epoch=1,
            seq=self.seq,
            boot=1,
        )
        return encode(msgspec.structs.replace(head, **changes), message)

    def tell(self, device: str, message: Message, **changes: Any) -> None:
        packet = self.pack(message, destination=device, **changes)
        self.link.publish(topics.inbox("demo", device), packet)

    def announce(self, state: str, epoch: int = 1) -> None:
        said = Announce(state, "digits", 1, 1, ["fp32"])  # type: ignore[arg-type]
        packet = self.pack(said, epoch=epoch)
        self.link.publish(topics.announcement("demo"), packet, retain=True)

    def shelve(self, content: bytes = BASE, *, without: int | None = None) -> None:
        manifest = manifest_of(content)
        for index in range(len(manifest.chunks)):
            if index != without:
                self.chunk(content, index)

    def chunk(self, content: bytes, index: int) -> None:
        manifest = manifest_of(content)
        topic = topics.chunk("demo", blob_id(manifest), index)
        self.link.publish(topic, chunk_of(content, manifest, index), retain=True)

    def hears(self, kind: type, device: str | None = None) -> Any:
        waiting, self.aside = self.aside, []
        while True:
            envelope = waiting.pop(0) if waiting else self.said.get(timeout=WAIT_S)
            if device not in (None, envelope.header.source):
                self.aside.append(envelope)
            elif isinstance(envelope.message, kind):
                self.aside += waiting
                return envelope.message

    def pull(self, device: str, offer: Offer, *, credit: int = 2) -> bytes:
        assembly = Assembly(offer.manifest)
        while not assembly.complete:
            ranges = assembly.missing()
            missing = sum(b - a for a, b in ranges)
            self.tell(device, Need(offer.task_id, ranges, credit))
            for _ in range(min(credit, missing)):
                data = self.hears(Data, device)
                assert assembly.add(data.index, data.chunk)
        return assembly.content()


class Device:
    """An agent on its own thread, which can be killed and started again."""

    limits_enforcer: LimitsEnforcer | None = None

    def __init__(self, broker: MemoryBroker, name: str, state: Path, offers: Offers):
        self.broker, self.name, self.state = broker, name, state
        self.trainer = Trainer(name, offers)
        self.errors: list[BaseException] = []
        self.start()

    def start(self, *, until_done: bool = False) -> None:
        links: list[MemoryTransport] = []

        def connect(*args: Any) -> MemoryTransport:
            links.append(self.broker.connect(*args))
            return links[0]

        me = Identity(self.name, "demo", "digits", 8, {"board": "pi-4b"})
        self.agent = Agent(
            me,
            connect,
            Journal(self.state),
            self.trainer,
            limits_enforcer=self.limits_enforcer,
        )
        self.link = links[0]

        def run() -> None:
            try:
                self.agent.run(until_done=until_done)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.errors.append(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def kill(self) -> None:
        """As kill -9 does: the will is spoken, nothing is said or kept."""
        self.link.die()
        self.agent._session_effects.transport = self.broker.connect(
            lambda _: None, lambda _: None
        )
        self.agent._session_effects.transport.publish = lambda *_a, **_k: None  # type: ignore[method-assign]
        self.agent.stop()
        self.thread.join(WAIT_S)
        self.agent._session_effects._work.join(WAIT_S)
        self.agent._session_effects._journal.close()

    def leave(self) -> None:
        self.agent.stop()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        self.agent.close()

    def status(self) -> Status:
        packet = self.broker.retained(topics.status("demo", self.name))
        assert packet is not None
        message = decode(packet).message
        assert isinstance(message, Status)
        return message


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def boss(broker: MemoryBroker) -> Coordinator:
    return Coordinator(broker)


@pytest.fixture
def device(
    broker: MemoryBroker, boss: Coordinator, tmp_path: Path, offer: Offers
) -> Iterator[Device]:
    """One running agent; `boss` first, so that its HELLO is heard."""
    found = Device(broker, "pi-1", tmp_path / "pi-1", offer)
    yield found
    found.leave()
    assert found.errors == []


def until(true: Callable[[], bool]) -> None:
    """Waits for another thread; a failure is the fixture's own time limit."""
    assert waited(true, 20), "it never came true"


def test_two_devices_through_a_whole_round(
    broker: MemoryBroker,
    boss: Coordinator,
    device: Device,
    tmp_path: Path,
    order: Orders,
    offer: Offers,
) -> None:
    other = Device(broker, "pi-2", tmp_path / "pi-2", offer)
    for name in ("pi-1", "pi-2"):
        hello = boss.hears(Hello, name)
        assert (hello.task, hello.examples) == ("digits", 8)
        assert hello.profile == {"board": "pi-4b"}
        boss.tell(name, order(f"1-{name}", 1, BASE))
    boss.shelve()
    for name in ("pi-1", "pi-2"):
        found = boss.hears(Offer, name)
        assert boss.pull(name, found) == name.encode() * 30_000
        boss.tell(name, Receipt(found.task_id, "accepted"))
    for one in (device, other):
        until(partial(_is_idle, one))
        assert one.trainer.trained == [f"1-{one.name}"]
        assert one.agent.dropped == 0
        assert one.status().sent > 30_000
    assert boss.link.broker is broker
    other.leave()
    assert not other.status().online
    assert other.errors == []


def _is_idle(device: Device) -> bool:
    return device.status().phase == "idle"


def test_a_device_that_trains_says_how_far_it_is(
    boss: Coordinator, device: Device, order: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "STATUS_S", 0.03)
    device.trainer.go.clear()
    boss.hears(Hello)
    boss.shelve()
    boss.tell("pi-1", order("1-a", 1, BASE))
    boss.hears(TaskAck)
    until(lambda: device.status().progress == 1000)
    assert device.status().phase == "training"
    device.trainer.go.set()
    boss.hears(Offer)
    until(lambda: device.status().progress is UNSET)


def a_task(boss: Coordinator, order: Orders, task_id: str = "1-a") -> None:
    boss.tell("pi-1", order(task_id, int(task_id[0]), BASE))
    assert boss.hears(TaskAck).task_id == task_id


def test_malformed_and_foreign_messages_are_counted_and_dropped(
    boss: Coordinator,
    device: Device,
    order: Orders,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = topics.inbox("demo", "pi-1")
    good = boss.pack(Cancel("x", "y"), destination="pi-1")
    packets = [
        b"\x00",
        b"\xc1" * 100,
        b"\x80" * 50_000,
        good[:-3],
        good + b"x",
        boss.pack(Cancel("x", "y"), destination="pi-2"),
        boss.pack(Cancel("x", "y"), destination="pi-1", source="pi-9"),
        boss.pack(Cancel("x", "y"), destination="pi-1", federation="other"),
    ]
    with caplog.at_level(logging.WARNING):
        for packet in packets:
            boss.link.publish(inbox, packet)
        boss.link.publish(topics.announcement("demo"), b"\xff")
        boss.link.publish(inbox, b"")  # a wiped topic is no message at all
        a_task(boss, order)
    assert device.agent.dropped == len(packets) + 1
    assert "Traceback" not in caplog.text
    assert "dropped a message" in caplog.text


def test_a_chunk_that_never_came_is_asked_for(
    boss: Coordinator, device: Device, order: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.NUDGE_S, SessionPhase.FETCH, 0.05)
    boss.shelve(without=1)
    a_task(boss, order)
    need = boss.hears(Need)
    assert (need.blob, need.ranges) == (blob_id(manifest_of(BASE)), [(1, 2)])
    damaged = topics.chunk("demo", need.blob, 1)
    boss.link.publish(damaged, b"damaged")
    assert boss.hears(Need).ranges == [(1, 2)]
    boss.chunk(BASE, 1)
    boss.hears(Offer)
    assert device.agent.dropped == 1


def test_a_device_comes_back_sooner_than_it_would_by_itself_if_told_so(
    device: Device, boss: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.NUDGE_S, SessionPhase.IDLE, 1e6)
    boss.hears(Hello)
    boss.announce("running")
    boss.hears(Hello)
    boss.tell("pi-1", Wait(50, "its training program is being made"))
    boss.hears(Hello)


def test_rounds_of_others_do_not_keep_a_device_from_asking_again(
    boss: Coordinator, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its HELLO was lost, and what is announced to all comes oftener than it asks."""
    monkeypatch.setitem(loop.NUDGE_S, SessionPhase.IDLE, 0.2)
    boss.hears(Hello)
    boss.announce("running")
    boss.hears(Hello)  # an epoch that is new to it is greeted at once
    for _ in range(400):
        boss.announce("running")
        threading.Event().wait(0.02)
        if not boss.said.empty():
            break
    assert isinstance(boss.said.get_nowait().message, Hello)


def test_a_mask_that_moved_is_fetched_with_the_base_and_only_once(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    structure = bytes(100_000)  # two chunks
    mask = msgspec.structs.replace(
        order("1-a", 1, BASE).mask, structure=manifest_of(structure)
    )
    boss.shelve()
    boss.shelve(structure)
    for number in (1, 2):
        task = order(f"{number}-a", number, BASE)
        boss.tell("pi-1", msgspec.structs.replace(task, mask=mask))
        boss.hears(Offer)
        if number == 1:
            first = device.link.traffic().received
    assert device.trainer.structures == [structure, structure]
    assert device.link.traffic().received - first < 10_000


def test_what_a_killed_device_had_fetched_is_not_sent_again(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve(without=1)
    a_task(boss, order)
    until(lambda: device.link.traffic().received > 2 * 40_000)
    blob = device.state / "blobs" / blob_id(manifest_of(BASE))
    until(lambda: blob.stat().st_size == len(BASE))
    device.kill()
    device.start()
    boss.hears(Hello)
    boss.chunk(BASE, 1)
    boss.hears(Offer)
    assert device.link.traffic().received < 70_000  # one chunk of three


def test_a_model_that_cannot_be_kept_fails_the_task_in_words(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve()
    (device.state / "blobs").write_bytes(b"")  # in the way, as a full disk is
    a_task(boss, order)
    assert "a model cannot be kept" in boss.hears(Fail).why
    (device.state / "blobs").unlink()
    a_task(boss, order, "2-b")
    boss.hears(Offer)


def test_an_update_goes_out_in_chunks_that_the_broker_takes(
    broker: MemoryBroker, boss: Coordinator, device: Device, order: Orders
) -> None:
    """Also when another broker, of smaller packets, takes the old one's place."""
    boss.shelve()
    a_task(boss, order)
    first = boss.hears(Offer)
    assert first.manifest.chunk_size == 64 * 1024
    for limit in (30_000, 20_000):
        broker.limits = BrokerLimits(packet=limit)
        device.agent._link(True)
        again = boss.hears(Offer)
        while again.manifest.chunk_size != limit - 1024:
            again = boss.hears(Offer)
        assert again.manifest.sha256 == first.manifest.sha256
    assert boss.pull("pi-1", again) == b"pi-1" * 30_000
    device.kill()
    device.start()
    assert boss.hears(Offer) == again  # what the journal has


def test_a_device_that_is_killed_while_training_trains_again(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve()
    device.trainer.go.clear()
    a_task(boss, order)
    until(lambda: device.trainer.running == 1)
    device.kill()
    assert not device.status().online  # the will
    device.trainer.go.set()
    device.start()
    assert boss.hears(Hello).task_id == "1-a"
    assert boss.hears(Offer).task_id == "1-a"
    assert device.trainer.trained == ["1-a"]


def test_a_device_that_is_killed_while_uploading_only_uploads(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve()
    a_task(boss, order)
    first = boss.hears(Offer)
    boss.tell("pi-1", Need("1-a", [(0, 1)], 1))
    boss.hears(Data)
    device.kill()
    device.start()
    assert boss.hears(Hello).phase == "uploading"
    again = boss.hears(Offer)
    assert again == first
    assert boss.pull("pi-1", again) == b"pi-1" * 30_000
    assert device.trainer.trained == ["1-a"]
    boss.tell("pi-1", Receipt("1-a", "accepted"))
    until(lambda: not (device.state / "outbox.bin").exists())
    # The same task once more, as a late duplicate: heard, and not trained.
    boss.tell("pi-1", order("1-a", 1, BASE))
    a_task(boss, order, "2-b")
    boss.hears(Offer)
    assert device.trainer.trained == ["1-a", "2-b"]


def test_a_newer_task_waits_for_the_last_step_of_the_old_one(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    """The runner has one model; two trainings at once would mix in it."""
    boss.shelve()
    device.trainer.go.clear()
    a_task(boss, order)
    until(lambda: device.trainer.running == 1)
    a_task(boss, order, "2-b")
    until(lambda: device.status().round_no == 2)
    device.trainer.go.set()
    assert boss.hears(Offer).task_id == "2-b"
    assert device.trainer.at_once == 1


@pytest.mark.parametrize(
    "error",
    [EngineError("no such kernel"), ValueError("a user's own"), MemoryError("none")],
    ids=lambda e: type(e).__name__,
)
def test_a_training_that_breaks_is_said_and_the_next_task_runs(
    boss: Coordinator,
    device: Device,
    order: Orders,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    boss.shelve()
    device.trainer.breaks = error
    with caplog.at_level(logging.CRITICAL):
        a_task(boss, order)
        assert str(error) in boss.hears(Fail).why
    device.trainer.breaks = None
    boss.tell("pi-1", order("1-a", 1, BASE))
    assert boss.hears(Fail).task_id == "1-a"
    a_task(boss, order, "2-b")
    assert boss.hears(Offer).task_id == "2-b"


def test_a_base_whose_manifest_lies_fails_the_task_and_not_the_device(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve()
    honest = order("1-a", 1, BASE)
    lies = [
        msgspec.structs.replace(honest.base, size=honest.base.size * 2),
        msgspec.structs.replace(honest.base, sha256=bytes(32)),
    ]
    for number, lie in enumerate(lies, start=1):
        task = msgspec.structs.replace(honest, id=f"{number}-x", base=lie)
        for index in range(3):
            topic = topics.chunk("demo", blob_id(lie), index)
            chunk = chunk_of(BASE, honest.base, index)
            boss.link.publish(topic, chunk, retain=True)
        boss.tell("pi-1", msgspec.structs.replace(task, round_no=number))
        assert boss.hears(Fail).task_id == f"{number}-x"
    device.kill()
    device.start()
    a_task(boss, order, "3-c")
    assert boss.hears(Offer).task_id == "3-c"


def test_a_coordinator_of_an_older_epoch_is_not_heard(
    boss: Coordinator, device: Device, order: Orders
) -> None:
    boss.shelve()
    boss.announce("running", epoch=5)
    boss.hears(Hello)
    boss.hears(Hello)  # a newer epoch is told where we are
    boss.tell("pi-1", order("9-z", 9, BASE), epoch=4)
    boss.announce("done", epoch=4)
    boss.tell("pi-1", order("1-a", 1, BASE), epoch=5)
    assert boss.hears(TaskAck).task_id == "1-a"
    assert not device.agent.finished


def test_until_done_ends_when_the_run_does(
    broker: MemoryBroker, boss: Coordinator, device: Device
) -> None:
    device.leave()
    boss.announce("waiting")
    device.start(until_done=True)
    boss.hears(Hello)
    assert device.thread.is_alive()
    boss.announce("done")
    device.thread.join(WAIT_S)
    assert not device.thread.is_alive()


def test_bytes_are_carried_over_restarts(boss: Coordinator, device: Device) -> None:
    boss.hears(Hello)
    device.leave()
    before = device.status().sent
    assert before > 0
    device.start()
    boss.hears(Hello)
    until(lambda: device.status().sent > before)


def test_a_full_disk_ends_the_run_with_the_old_state_intact(
    boss: Coordinator, tmp_path: Path, offer: Offers, order: Orders
) -> None:
    """The outbox's place is taken, which refuses the write as a full disk does."""
    found = Device(boss.link.broker, "pi-1", tmp_path / "state", offer)
    boss.shelve()
    (found.state / "outbox.bin").mkdir()
    a_task(boss, order)
    found.thread.join(WAIT_S)
    (error,) = found.errors
    assert isinstance(error, StateError)
    assert "outbox.bin could not be written" in str(error)
    (found.state / "outbox.bin").rmdir()
    found.agent.close()
    found.errors.clear()
    found.start()
    assert boss.hears(Hello).task_id == "1-a"
    boss.hears(Offer)
    found.leave()


def test_stop_ends_it_also_when_its_queue_is_full(
    boss: Coordinator, device: Device
) -> None:
    device.leave()
    device.start()
    for _ in range(loop.QUEUE + 50):
        device.agent._deliver(ReceivedMessage("fl/1/demo/c/ann", b""))
    device.agent.stop()
    device.thread.join(WAIT_S)
    assert not device.thread.is_alive()


# -- the owner's limits ---


class Weather:
    """What the board is in, as the test says."""

    def __init__(self) -> None:
        self.celsius, self.day = 50.0, 25

    def now(self) -> dt.datetime:
        return dt.datetime(2026, 11, self.day, 12, 0, tzinfo=dt.timezone.utc)

    def read(self, now: dt.datetime, moved_today: int) -> Conditions:
        heat = Thermal(self.celsius, None, "")
        mains = Power(on_battery=False, percent=None)
        return Conditions(60 * now.hour, heat, mains, None, moved_today)

    def limits_enforcer(self, caps: Caps) -> LimitsEnforcer:
        return LimitsEnforcer(caps, now=self.now, read=self.read)


@pytest.fixture
def weather() -> Weather:
    return Weather()


@pytest.fixture
def kept(
    broker: MemoryBroker,
    boss: Coordinator,
    tmp_path: Path,
    offer: Offers,
    weather: Weather,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Caps], Device]]:
    """Starts a device whose owner set limits; sensors are read at every look."""
    monkeypatch.setattr("edge_sdk.device.limits.enforcement.LOOK_S", 0.01)
    made: list[Device] = []

    def start(caps: Caps) -> Device:
        monkeypatch.setattr(Device, "limits_enforcer", weather.limits_enforcer(caps))
        made.append(Device(broker, "pi-1", tmp_path / "pi-1", offer))
        return made[-1]

    yield start
    for one in made:
        one.leave()


def test_a_device_that_may_not_work_now_gives_its_task_back_and_says_why(
    boss: Coordinator, kept: Callable[[Caps], Device], weather: Weather, order: Orders
) -> None:
    weather.celsius = 85.0
    device = kept(Caps())
    boss.hears(Hello)
    wait = boss.hears(Wait)
    assert (wait.ms, wait.why) == (30_000, "85 C, cooling below 78")
    boss.shelve()
    boss.tell("pi-1", order("1-a", 1, BASE))
    declined = boss.hears(Fail)
    assert declined.task_id == "1-a"
    assert declined.why.startswith("85 C, cooling below ")
    assert "cooling below" in device.status().detail
    weather.celsius = 60.0
    time.sleep(0.05)  # sensors are old by now: the order has it look again
    boss.tell("pi-1", order("1-b", 1, BASE))
    assert boss.hears(Wait) == Wait(0, "")
    assert boss.hears(TaskAck) == TaskAck("1-b")
    boss.hears(Offer)
    assert device.trainer.trained == ["1-b"]
    assert device.status().detail == ""


def test_a_board_that_gets_hot_in_a_task_pauses_and_finishes_it(
    boss: Coordinator, kept: Callable[[Caps], Device], weather: Weather, order: Orders
) -> None:
    device = kept(Caps())
    device.trainer.go.clear()
    boss.hears(Hello)
    boss.shelve()
    boss.tell("pi-1", order("1-a", 1, BASE))
    boss.hears(TaskAck)
    weather.celsius = 90.0
    assert boss.hears(Wait).why == "90 C, cooling below 78"
    weather.celsius = 50.0
    assert boss.hears(Wait) == Wait(0, "")
    device.trainer.go.set()
    boss.hears(Offer)
    assert device.trainer.trained == ["1-a"]


def test_a_days_bytes_are_counted_over_restarts_and_end_with_the_day(
    boss: Coordinator, kept: Callable[[Caps], Device], weather: Weather, order: Orders
) -> None:
    device = kept(Caps(bytes_per_day=len(BASE)))
    boss.hears(Hello)
    boss.shelve()
    boss.tell("pi-1", order("1-a", 1, BASE))
    boss.pull("pi-1", boss.hears(Offer))
    boss.tell("pi-1", Receipt("1-a", "accepted"))
    until(partial(_is_idle, device))
    device.leave()
    device.start()
    boss.hears(Hello)
    assert "bytes moved today of" in boss.hears(Wait).why
    boss.tell("pi-1", order("2-a", 2, BASE))
    assert "bytes moved today of" in boss.hears(Fail).why
    weather.day += 1
    time.sleep(0.05)  # as above
    boss.tell("pi-1", order("2-b", 2, BASE))
    assert boss.hears(TaskAck) == TaskAck("2-b")


def test_a_device_without_a_task_comes_back_when_the_coordinator_said(
    device: Device, boss: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.NUDGE_S, SessionPhase.IDLE, 0.1)
    boss.hears(Hello)
    boss.announce("running")  # greeted at once; what is said then is of a known epoch
    boss.tell("pi-1", Wait(700, "no task for you just now"))
    effects = device.agent._session_effects
    until(lambda: effects.hold.back_at > 0.0)
    back_at = effects.hold.back_at
    while not boss.said.empty():  # what it had said before it heard that
        boss.said.get()
    boss.hears(Hello)
    assert time.monotonic() >= back_at
