from __future__ import annotations

import pytest
from msgspec.structs import replace

from coordinator.protocol.publisher import Publisher
from edge_sdk.errors import RunError
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.blob import CHUNK_SIZE, Assembly, blob_id
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import Announce, Need, Wait

ANNOUNCE = Announce("running", "digits", 1, 9, ["fp32"])
CONTENT = bytes(range(256)) * 600  # three chunks


def setup() -> tuple[MemoryBroker, Publisher, list[ReceivedMessage]]:
    broker, got = MemoryBroker(), list[ReceivedMessage]()
    device = broker.connect(got.append, lambda _: None)
    device.subscribe(topics.inbox("demo", "pi-1"))
    publisher = Publisher(
        broker.connect(lambda _: None, lambda _: None), "demo", epoch=4
    )
    return broker, publisher, got


def late_joiner(broker: MemoryBroker, blob: str) -> dict[int, bytes]:
    got: list[ReceivedMessage] = []
    broker.connect(got.append, lambda _: None).subscribe(f"fl/1/demo/m/{blob}/+")
    return {int(d.topic.rsplit("/", 1)[1]): d.payload for d in got}


def test_a_message_says_who_to_whom_in_which_epoch() -> None:
    _, publisher, got = setup()
    publisher.tell("pi-1", Wait(1, "x"), round_no=7)
    publisher.tell("pi-1", Wait(2, "y"))
    first, second = (decode(d.payload) for d in got)
    assert (first.header.source, first.header.destination) == ("coordinator", "pi-1")
    assert (first.header.epoch, first.header.round_no) == (4, 7)
    assert second.header.seq == first.header.seq + 1
    assert first.message == Wait(1, "x")


def test_the_announcement_waits_for_late_joiners() -> None:
    broker, publisher, _ = setup()
    publisher.announce(ANNOUNCE)
    kept = broker.retained(topics.announcement("demo"))
    assert kept is not None
    assert decode(kept).message == replace(ANNOUNCE, link=1)


def test_an_announcement_says_which_of_the_coordinators_connections_it_is_of() -> None:
    broker, publisher, _ = setup()
    publisher.announce(ANNOUNCE)
    for link in (1, 2):
        publisher.after_connect()
        kept = broker.retained(topics.announcement("demo"))
        assert kept is not None
        assert decode(kept).message == replace(ANNOUNCE, link=link)


def test_a_shelved_blob_waits_in_chunks_and_is_wiped_in_time() -> None:
    broker, publisher, _ = setup()
    manifest = publisher.shelve(CONTENT, 1)
    assert publisher.shelve(CONTENT, 2) == manifest  # the later round keeps it
    assembly = Assembly(manifest)
    for index, chunk in late_joiner(broker, blob_id(manifest)).items():
        assert len(chunk) <= CHUNK_SIZE
        assembly.add(index, chunk)
    assert assembly.content() == CONTENT
    publisher.wipe(before_round=2)
    assert len(late_joiner(broker, blob_id(manifest))) == 3
    publisher.wipe(before_round=3)
    assert late_joiner(broker, blob_id(manifest)) == {}


def test_what_is_missed_is_sent_again_at_most_once_per_chunk() -> None:
    broker, publisher, _ = setup()
    blob = blob_id(publisher.shelve(CONTENT, 1))
    got: list[ReceivedMessage] = []
    broker.connect(got.append, lambda _: None).subscribe(f"fl/1/demo/m/{blob}/+")
    got.clear()
    publisher.send_again(Need(blob, [(1, 2)], 64))
    assert [d.topic[-2:] for d in got] == ["/1"]
    got.clear()
    publisher.send_again(Need(blob, [(0, 1 << 40)] * 200, 1 << 40))
    assert len(got) == 3
    got.clear()
    publisher.send_again(Need(blob, [(0, 3)], 2))
    assert len(got) == 2
    publisher.send_again(Need("ff" * 32, [(0, 3)], 2))
    assert len(got) == 2


def test_after_a_broker_lost_everything_it_is_said_again() -> None:
    broker, publisher, _ = setup()
    publisher.after_connect()  # nothing yet to say
    publisher.announce(ANNOUNCE)
    blob = blob_id(publisher.shelve(CONTENT, 1))
    broker._retained.clear()
    publisher.after_connect()
    assert broker.retained(topics.announcement("demo")) is not None
    assert len(late_joiner(broker, blob)) == 3


def limited(limit: int) -> tuple[MemoryBroker, Publisher]:
    broker = MemoryBroker(limit)
    return broker, Publisher(broker.connect(lambda _: None, lambda _: None), "demo", 4)


def test_chunks_are_as_small_as_the_broker_wants() -> None:
    broker, publisher = limited(20_000)
    manifest = publisher.shelve(CONTENT, 1)
    assert manifest.chunk_size == 20_000 - 1024
    found = late_joiner(broker, blob_id(manifest))
    assert b"".join(found[i] for i in range(len(found))) == CONTENT


def test_a_round_at_a_broker_of_smaller_packets_says_so_and_the_next_fits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, publisher = limited(1 << 20)
    first = publisher.shelve(CONTENT, 1)
    broker.limits = BrokerLimits(packet=20_000)
    broker._retained.clear()
    publisher.after_connect()
    assert "cannot be fetched: its round will be aborted" in caplog.text
    second = publisher.shelve(CONTENT, 2)
    assert second.sha256 == first.sha256
    found = late_joiner(broker, blob_id(second))
    assert b"".join(found[i] for i in range(len(found))) == CONTENT


@pytest.mark.parametrize(
    ("limit", "size", "why"),
    [
        (2000, 100, "chunks need 2048"),
        (4096, 300_000, "the list of chunks of a model of 300000 bytes"),
        (4096, 3072 * 2049, "makes 2049 chunks"),
    ],
)
def test_what_the_broker_cannot_carry_is_refused_in_words(
    limit: int, size: int, why: str
) -> None:
    broker, publisher = limited(limit)
    with pytest.raises(RunError, match=why) as caught:
        publisher.shelve(bytes(size), 1)
    assert "Raise the broker's limit" in caught.value.help
    assert not broker._retained
