"""Whom a coordinator believes, whom it tells why not, and to whom it yields."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, Name

from coordinator.identity.registry import IdentityRegistry
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.receiver import MessageReceiver
from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.identity.signatures import signer
from edge_sdk.identity.token import read_token
from edge_sdk.transport.base import ReceivedMessage, Transport
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Header, decode, encode
from edge_sdk.wire.messages import Announce, Message, Revoked, TaskAck, Wait

Connect: TypeAlias = Callable[[list[ReceivedMessage]], Transport]
RUNNING = Announce("running", "digits", 1, 3, ["fp32"])
TOPIC = topics.announcement("home")


@pytest.fixture
def connect() -> Connect:
    """Connects to one broker and hears what is announced there."""
    broker = MemoryBroker()

    def link(heard: list[ReceivedMessage]) -> Transport:
        made = broker.connect(heard.append, lambda _: None)
        made.subscribe(TOPIC)
        return made

    return link


def test_a_coordinator_ends_when_a_newer_one_has_announced_itself(
    connect: Connect,
) -> None:
    heard: list[ReceivedMessage] = []
    older = MessageReceiver(
        "home", None, Publisher(connect(heard), "home", 7), lambda: 0.0
    )
    Publisher(connect([]), "home", 8).announce(RUNNING)
    with pytest.raises(StateError, match="it announces epoch 8, this one has 7") as why:
        older.read(heard[-1])
    assert "resume the newer one" in why.value.help
    assert older.announcements.taken_over


def test_a_coordinator_hears_itself_and_goes_on(connect: Connect) -> None:
    heard: list[ReceivedMessage] = []
    publisher = Publisher(connect(heard), "home", 7)
    receiver = MessageReceiver("home", None, publisher, lambda: 0.0)
    publisher.announce(RUNNING)
    assert receiver.read(heard[-1]) is None
    assert len(heard) == 1
    assert not receiver.announcements.taken_over


def test_an_older_coordinators_word_does_not_stay_in_the_newer_ones_place(
    connect: Connect,
) -> None:
    heard: list[ReceivedMessage] = []
    publisher = Publisher(connect(heard), "home", 8)
    receiver = MessageReceiver("home", None, publisher, lambda: 0.0)
    publisher.announce(RUNNING)
    Publisher(connect([]), "home", 7).announce(RUNNING)
    assert receiver.read(heard[-1]) is None
    late: list[ReceivedMessage] = []
    connect(late)
    assert [decode(one.payload).header.epoch for one in late] == [8]


def test_of_two_copies_started_from_one_state_exactly_one_goes_on(
    connect: Connect,
) -> None:
    """Both count on to the same epoch; what they drew at their start decides."""
    heard: list[ReceivedMessage] = []
    posts = [Publisher(connect(heard), "home", 7), Publisher(connect([]), "home", 7)]
    receptions = [
        MessageReceiver("home", None, publisher, lambda: 0.0) for publisher in posts
    ]
    for publisher in posts:
        publisher.announce(RUNNING)
        word = heard[-1]
        for receiver in receptions:
            with contextlib.suppress(StateError):
                receiver.read(word)
    assert sum(one.announcements.taken_over for one in receptions) == 1


def test_a_device_that_has_heard_a_newer_coordinator_is_not_counted_on_and_named(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be asked in each round and never answer: the folder is an old copy."""
    receiver = MessageReceiver(
        "home", None, Publisher(connect([]), "home", 7), lambda: 0.0
    )
    topic = topics.upload("home", "pi-1", 0, data=False)

    def reads(epoch: int) -> bool:
        header = Header("task-ack", "home", "pi-1", "coordinator", epoch, 1, 1)
        packet = encode(header, TaskAck("1-a"))
        return receiver.read(ReceivedMessage(topic, packet)) is not None

    assert [reads(epoch) for epoch in (0, 7, 8, 8)] == [True, True, False, False]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "pi-1 follows a coordinator of epoch 8 and ignores this one" in said
    assert "resume the newer one" in said


def test_who_is_not_believed_is_told_what_to_do_once_a_minute(
    tmp_path: Path,
) -> None:
    """A stranger is to enrol, a revoked device hears why; anybody else is ignored."""
    broker, clock = MemoryBroker(), [0.0]
    identities = IdentityRegistry(tmp_path, "home")
    link = broker.connect(lambda _: None, lambda _: None)
    publisher = Publisher(link, "home", 7, identities.seal.sign)
    receiver = MessageReceiver("home", identities, publisher, lambda: clock[0])
    heard: list[ReceivedMessage] = []
    device = broker.connect(heard.append, lambda _: None)
    device.subscribe(topics.inbox("home", "pi-9"))

    def says(said: str = "signature of pi-9") -> list[Message]:
        """What a HELLO with a key that nobody knows is answered."""
        heard.clear()
        header = Header("task-ack", "home", "pi-9", "coordinator", 7, 1, 1)
        stranger = signer(Ed25519PrivateKey.generate)
        packet = encode(header, TaskAck("1-a"), sign=stranger)
        topic = topics.upload("home", "pi-9", 0, data=False)
        with pytest.raises(RemoteProtocolError, match=said):
            receiver.read(ReceivedMessage(topic, packet))
        return [decode(one.payload).message for one in heard]

    (wait,) = says()
    assert isinstance(wait, Wait)
    assert "ask the operator for a token, then run flash-edge enroll" in wait.why
    assert says() == []  # it may be an impostor: seldom
    clock[0] += 61
    assert len(says()) == 1
    _enrol(identities, "pi-9")
    clock[0] += 61
    assert says() == []  # somebody speaks in the name of a device that is well
    identities.revoke("pi-9", "it was stolen")
    identities.refresh()
    clock[0] += 61
    (gone,) = says("pi-9 was revoked")
    assert isinstance(gone, Revoked)
    assert gone.why == "it was stolen"


def test_two_boards_with_one_identity_are_named_and_a_restart_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A card was copied: each board cuts the other off, and its messages are late."""
    broker, identities = MemoryBroker(), IdentityRegistry(tmp_path, "home")
    key = _enrol(identities, "pi-9")
    publisher = Publisher(
        broker.connect(lambda _: None, lambda _: None), "home", 7, identities.seal.sign
    )
    receiver = MessageReceiver("home", identities, publisher, lambda: 0.0)
    heard: list[ReceivedMessage] = []
    broker.connect(heard.append, lambda _: None).subscribe(topics.inbox("home", "pi-9"))

    def says(boot: int, seq: int) -> None:
        header = Header("task-ack", "home", "pi-9", "coordinator", 7, seq, boot)
        packet = encode(header, TaskAck("1-a"), sign=signer(lambda: key))
        topic = topics.upload("home", "pi-9", 0, data=False)
        receiver.read(ReceivedMessage(topic, packet))

    for boot, seq in ((1, 40), (2, 1), (1, 41), (1, 41), (1, 40), (1, 42), (2, 2)):
        says(boot, seq)  # it was started again; its last words come late, and twice
    assert not heard
    for seq in range(43, 50):
        says(1, seq)
        says(2, seq)
    (one,) = [decode(delivery.payload).message for delivery in heard]
    assert isinstance(one, Wait)
    assert "token of its own: flash-edge enroll TOKEN" in one.why
    (said,) = [
        text for r in caplog.records if "two processes" in (text := r.getMessage())
    ]
    assert said.startswith("pi-9: two processes have this device's identity")


def _enrol(identities: IdentityRegistry, name: str) -> Ed25519PrivateKey:
    token = read_token(identities.token(name, "127.0.0.1", 1, hours=1))
    key = Ed25519PrivateKey.generate()
    request = CertificateSigningRequestBuilder(Name([])).sign(key, None)
    identities.enrol(token.secret, request.public_bytes(Encoding.DER))
    return key
