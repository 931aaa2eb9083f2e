"""A broker that lets anybody write anything: signatures alone must hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from patience import patience

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.identity.exchange import Enrolled
from edge_sdk.identity.folder import DeviceFolder, NewDevice
from edge_sdk.identity.keys import key_pem
from edge_sdk.identity.signatures import signer
from edge_sdk.identity.token import read_token
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Envelope, Header, decode, encode, tag_of
from edge_sdk.wire.messages import Announce, Cancel, Fail, Hello, Message, TaskOrder

DEVICES = ("pi-1", "pi-2")
PROFILE = msgspec.to_builtins(load_board("jetson_orin_nano"))


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def enrolled(identities: IdentityRegistry, name: str, folder: Path) -> DeviceFolder:
    """A device with its identity on disk, let in by a token."""
    replace_file(folder / "next.pem", key_pem(key_of(name)))
    device = NewDevice(folder)
    token = read_token(identities.token(name, "127.0.0.1", 1, hours=1))
    _, certificate = identities.enrol(token.secret, device.request())
    number, key = identities.signing
    answer = Enrolled(
        name=name,
        federation="tiny",
        certificate=certificate,
        key=key,
        key_number=number,
        broker="",
        broker_authority=b"",
        task="digits",
    )
    device.finish(answer, identities.authority)
    return DeviceFolder(folder)


class Mallory:
    """Reads everything, repeats it, and speaks as others."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.heard: list[ReceivedMessage] = []
        self.link = broker.connect(self._deliver, lambda _: None)
        for data in (False, True):
            self.link.subscribe(topics.all_uploads("tiny", data=data))
        for name in DEVICES:
            self.link.subscribe(topics.inbox("tiny", name))
        self.busy = False
        self.forged = self.repeated = 0

    def _deliver(self, delivery: ReceivedMessage) -> None:
        if self.busy or not delivery.payload:
            return
        self.busy = True
        self.heard.append(delivery)
        envelope = decode(delivery.payload)
        if envelope.header.source == "coordinator":
            self._mislead(envelope)
        else:
            self._impersonate(envelope)
        for old in self.heard[-3:]:
            self.repeated += 1
            self.link.publish(old.topic, old.payload)
        self.busy = False

    def _impersonate(self, envelope: Envelope) -> None:
        name = envelope.header.source
        topic = topics.upload("tiny", name, 0, data=False)
        lie = Hello(
            phase="idle",
            task_id=None,
            version="0",
            task="nowhere",
            examples=1 << 30,
            profile=PROFILE,
            codecs=[],
            engines=[],
            free_disk_mib=0,
        )
        for key in (None, "mallory", next(d for d in DEVICES if d != name)):
            self._say(topic, lie, envelope.header, key)
        # Truly signed by the device, for another federation.
        self._say(topic, lie, envelope.header, name, federation="other")

    def _mislead(self, envelope: Envelope) -> None:
        message = envelope.message
        if not isinstance(message, TaskOrder):
            return
        name = envelope.header.destination
        other = next(d for d in DEVICES if d != name)
        cancel = Cancel(message.id, "mallory says so")
        fail = Fail(message.id, "mallory says so")
        inbox = topics.inbox("tiny", name)
        for key in (None, "mallory", other):
            self._say(inbox, cancel, envelope.header, key)
            back = msgspec.structs.replace(
                envelope.header, source=name, destination="coordinator"
            )
            self._say(topics.upload("tiny", name, 0, data=False), fail, back, key)
        # A true order, shown to the wrong device.
        self.forged += 1
        self.link.publish(topics.inbox("tiny", other), self.heard[-1].payload)
        end = Announce("done", "digits", 1, 1, ["fp32"])
        self._say(topics.announcement("tiny"), end, envelope.header, "mallory")
        # A newer coordinator, before whom this one would have to yield.
        newer = msgspec.structs.replace(
            envelope.header, epoch=envelope.header.epoch + 1, destination="all"
        )
        for key in (None, "mallory", name):
            self._say(topics.announcement("tiny"), end, newer, key)

    def _say(
        self,
        topic: str,
        message: Message,
        like: Header,
        key: str | None,
        **changes: str,
    ) -> None:
        self.forged += 1
        header = msgspec.structs.replace(
            like, type=tag_of(message), seq=like.seq + 500, **changes
        )
        sign = signer(lambda: key_of(key)) if key else None
        self.link.publish(topic, encode(header, message, sign=sign))


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[tuple[Path, Server, list[Agent], Mallory]]:
    """A finished round of two devices and an enemy inside the broker."""
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", list(DEVICES), alpha=1, seed=1
    )
    settings = RunSettings(
        federation="tiny",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.4],
        rounds=1,
        wait_for=2,
        training=TrainingSettings(max_steps=10, rate=0.2),
        warm_up=WarmUpSettings(devices=2, epochs=1, max_steps=5),
    )
    broker = MemoryBroker()
    mallory = Mallory(broker)
    task = load_task("digits")
    agents = []
    identities = IdentityRegistry(tmp_path / "run", "tiny")
    for name in DEVICES:
        examples = load_partition(data[name])
        me = Identity(name, "tiny", "digits", len(examples), PROFILE)
        journal = Journal(tmp_path / name)
        runner = TaskRunner(task, examples, "masked")
        device_keys = enrolled(identities, name, tmp_path / f"identity-{name}")
        agents.append(
            Agent(me, broker.connect, journal, runner, device_keys=device_keys)
        )
    threads = [
        threading.Thread(target=one.run, kwargs={"until_done": True}) for one in agents
    ]
    for thread in threads:
        thread.start()
    ledger = open_ledger(tmp_path / "run")
    scored_on = task.eval_data(settings.evaluation)
    server = Server(
        settings, task, scored_on, ledger, broker.connect, identities=identities
    )
    try:
        server.run()
        for thread in threads:
            thread.join(timeout=patience(20))
        yield tmp_path, server, agents, mallory
    finally:
        for one in agents:
            one.stop()
            one.close()
        server.close()
        ledger.close()


def test_a_device_or_coordinator_that_somebody_else_speaks_for_is_not_heard(
    attacked: tuple[Path, Server, list[Agent], Mallory],
) -> None:
    folder, server, agents, mallory = attacked
    found = summary(folder / "run")
    assert found["rounds_done"] == 1
    assert found["rounds_aborted"] == []
    assert found["updates"] == {"0": 2, "1": 2}
    assert mallory.forged > 50
    assert mallory.repeated > 50
    for device in found["devices"]:
        assert device["examples"] < 1 << 30  # no lie was believed
        assert device["refused"] == 0
    assert server._dispatcher.dropped > 20
    assert all(agent.dropped > 2 for agent in agents)
