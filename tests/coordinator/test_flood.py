"""One device that says too much, or what is not believed: named, and nobody waits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import Ledger, open_ledger
from coordinator.protocol.events import DeviceRevoked as RevokedNow
from coordinator.protocol.events import Unlinked
from coordinator.rate_limit import Excess, Flood
from coordinator.server.loop import Server
from coordinator.settings import RunSettings
from coordinator.views.page.metrics import exposition
from coordinator.views.report.facts import gather
from coordinator.views.run_view import RunView
from coordinator.views.source import RunSource
from coordinator.views.terminal.history_tables import troubles
from device_profiles import load_board
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.identity.keys import request_for
from edge_sdk.identity.signatures import signer
from edge_sdk.identity.token import read_token
from edge_sdk.tasks.task import load_task
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Header, encode, tag_of
from edge_sdk.wire.messages import Hello, Message, Need, Request, Status, Wait

PROFILE = msgspec.to_builtins(load_board("jetson_orin_nano"))
NAMES = ("pi-1", "pi-2")


class House:
    """A coordinator that is not running yet, and the keys of two enrolled devices."""

    def __init__(self, folder: Path, evaluation: Path) -> None:
        self.now, self.folder = 1000.0, folder
        self.broker = MemoryBroker()
        self.muted: list[str] = []
        self.identities = IdentityRegistry(folder, "tiny")
        self.keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
        for name, key in self.keys.items():
            token = read_token(self.identities.token(name, "127.0.0.1", 1, hours=1))
            self.identities.enrol(token.secret, request_for(key))
        self.identities.refresh()
        settings = RunSettings(
            federation="tiny",
            task="digits",
            evaluation=evaluation,
            densities=[0.4],
            rounds=1,
        )
        (folder / "run.toml").write_text(
            f'federation = "tiny"\ntask = "digits"\nevaluation = "{evaluation}"\n'
            "densities = [0.4]\nrounds = 1\n"
        )
        task = load_task("digits")
        self.ledger: Ledger = open_ledger(folder)
        self.server = Server(
            settings,
            task,
            task.eval_data(evaluation),
            self.ledger,
            self.broker.connect,
            identities=self.identities,
            mute=self.muted.append,
            clock=lambda: self.now,
        )
        self.seq = 0

    def hear(self, name: str, message: Message) -> None:
        self.seq += 1
        header = Header(tag_of(message), "tiny", name, "coordinator", 1, self.seq, 1)
        topic = topics.upload("tiny", name, 0, data=False)
        if isinstance(message, Status):
            topic = topics.status("tiny", name)
        packet = encode(header, message, sign=signer(lambda: self.keys[name]))
        self.server._handle(ReceivedMessage(topic, packet))

    def hello(self, name: str, task: str = "digits") -> None:
        said = Hello("idle", None, "0", task, 100, PROFILE, ["fp32"], ["masked"], 100)
        self.hear(name, said)

    def view(self) -> RunView:
        self.server._fleet.record()
        self.ledger.settle()
        return RunSource(self.folder).run()

    def facts(self) -> dict[str, object]:
        return self.view().as_json()

    def device(self, name: str) -> dict[str, object]:
        return next(d for d in self.facts()["devices"] if d["name"] == name)

    def refusals(self, name: str) -> dict[str, int]:
        self.ledger.settle()
        return {r.verdict: r.count for r in self.ledger.refused() if r.device == name}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", ["pi-1"], alpha=1, seed=1
    )
    made = House(tmp_path / "run", data["evaluation"])
    yield made
    made.server.close()
    made.ledger.close()


def test_a_device_that_says_hello_on_and_on_is_named_and_costs_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[ReceivedMessage] = []
    house.broker.connect(answers.append, lambda _: None).subscribe(
        topics.inbox("tiny", "pi-1")
    )
    with caplog.at_level(logging.INFO):
        for _ in range(600):
            house.hello("pi-1")
    assert len(answers) <= 20  # the burst that a bucket holds
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2  # too many hello, then too many packets: once each
    assert all(line.startswith("pi-1 sends more ") for line in said)
    assert house.refusals("pi-1") == {"flooding": 2}
    assert house.muted == ["pi-1"]  # at the broker, once
    house.hello("pi-2")
    assert house.device("pi-2")["density"] == 0.4  # nobody else is held up
    assert house.server._fleet.present() == {"pi-2"}  # and no round waits for pi-1
    shown = troubles(house.view(), {})
    assert "pi-1: flooding" in str([str(line) for line in shown.renderables])
    house.now += 61.0
    house.hello("pi-1")
    assert house.server._fleet.present() == {"pi-1", "pi-2"}  # its way back
    for _ in range(700):
        house.hello("pi-1")
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "more since this was last logged" in said[-1]
    assert len(said) <= 4


def test_a_device_that_talks_as_devices_do_is_never_limited() -> None:
    """A day: a HELLO each 20 s, a status each 15 s, 100 rounds, a link that flaps."""
    now, told = [0.0], list[Excess]()
    flood = Flood(lambda: now[0], told.append)
    hello = Hello("idle", None, "0", "digits", 1, {}, [], [], 0)
    for second in range(0, 86_400, 5):
        now[0] = float(second)
        if second % 20 == 0:
            assert flood.lets_say("pi-1", hello)
        if second % 15 == 0:
            assert flood.lets_say("pi-1", Status(online=True, phase="training"))
        if second % 3600 == 0:
            for _ in range(15):  # a link that comes and goes
                assert flood.lets_say("pi-1", hello)
            assert flood.lets_say("pi-1", Need("ab", [(0, 2048)], 2048))
        if second % 864 == 0:
            for _ in range(2000):
                assert flood.lets_in(topics.UploadTopic("pi-1", 0, data=True))
    assert told == []


def test_each_kind_has_a_bucket_of_its_own_and_asking_for_chunks_costs_chunks() -> None:
    told: list[Excess] = []
    flood = Flood(lambda: 0.0, told.append)
    asked = [flood.lets_say("pi-1", Need("ab", [(0, 1024)], 4096)) for _ in range(9)]
    assert asked.count(True) == 4
    assert flood.lets_say("pi-1", Wait(1, "x"))
    assert [(e.device, e.what) for e in told] == [("pi-1", "need messages")]


def test_noise_on_a_devices_topic_is_logged_seldom_and_counted(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hello("pi-1")
    topic = topics.upload("tiny", "pi-1", 0, data=False)
    for number in range(300):
        house.server._handle(ReceivedMessage(topic, bytes([number % 256]) * 9))
    lines = [r for r in caplog.records if "dropped a message" in r.getMessage()]
    assert len(lines) == 1
    assert house.refusals("pi-1")["malformed"] == 300


def test_a_revoked_device_is_called_revoked_everywhere_and_not_online(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for name in NAMES:
        house.hello(name)
        house.hear(name, Status(online=True, phase="idle"))
    assert house.device("pi-2")["online"] is True
    house.identities.revoke("pi-2", "it was stolen")
    house.identities.refresh()
    house.server._handle(RevokedNow("pi-2"))
    for _ in range(5):
        house.hello("pi-2")
        house.hear("pi-2", Status(online=True, phase="idle"))
    found = house.device("pi-2")
    assert (found["phase"], found["online"], found["refused"]) == ("revoked", False, 0)
    assert house.refusals("pi-2") == {"revoked": 10}
    assert house.server._fleet.view()[1].phase == "revoked"
    text = exposition(house.view()).decode()
    assert 'flash_edge_device_online{device="pi-2"} 0.0' in text
    assert 'flash_edge_device_online{device="pi-1"} 1.0' in text
    assert 'flash_edge_devices{presence="revoked"} 1.0' in text
    assert 'flash_edge_devices{presence="online"} 1.0' in text
    whys = [r.why for r in gather(RunSource(house.folder)).run.refusals]
    assert whys == ["pi-2 was revoked (it was stolen); its messages are ignored"]
    assert len([r for r in caplog.records if "are ignored" in r.getMessage()]) == 1


def test_nobody_is_online_where_no_coordinator_hears_them_go(house: House) -> None:
    house.hello("pi-1")
    house.hear("pi-1", Status(online=True, phase="idle"))
    assert house.device("pi-1")["online"] is True
    house.server._handle(Unlinked())  # our own link: it may go meanwhile
    assert house.device("pi-1")["online"] is False
    assert house.server._fleet.present() == {"pi-1"}  # rounds do not hang on it
    house.hear("pi-1", Status(online=True, phase="idle"))
    assert house.device("pi-1")["online"] is True
    source = RunSource(house.folder)
    before = source.version()
    house.ledger.settle()
    house.ledger._lock.close()  # type: ignore[union-attr] - as if it were killed
    assert source.version() != before
    assert source.run().devices[0].online is False
    assert 'device_online{device="pi-1"} 0.0' in exposition(source.run()).decode()


def test_a_certificate_is_made_only_when_one_is_due(house: House) -> None:
    house.hello("pi-1")
    for _ in range(5):
        house.hear("pi-1", Request(request_for(Ed25519PrivateKey.generate())))
    assert len(house.identities._store.certificates()) == len(NAMES)
    (row,) = [r for r in house.ledger.refused() if r.verdict == "malformed"]
    assert "pi-1 cannot renew: its certificate is good for 36" in row.why


def test_what_devices_say_reaches_nobody_with_signs_that_turn_or_hide_text(
    house: House,
) -> None:
    profile = {**PROFILE, "board": "pi\u202e 4\x1b[2J"}
    said = Hello("id\rle", None, "0\x1b", "digits", 9, profile, ["fp32"], ["masked"], 9)
    house.hear("pi-1", said)
    house.hear("pi-1", Status(online=True, phase="tr\u202eain", detail="hot\x9b1m"))
    house.hear("pi-1", Hello("idle", None, "0", "x\u202ey", 9, PROFILE, [], [], 9))
    everything = [house.facts(), RunSource(house.folder).device("pi-1").as_json()]

    def strings(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield str(key)
                yield from strings(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from strings(inner)

    found = list(strings(everything))
    assert any("\\u202e" in text for text in found)
    assert [text for text in found if not text.isprintable()] == []
