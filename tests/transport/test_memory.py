from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.transport.base import ReceivedMessage, Will
from edge_sdk.transport.memory import MemoryBroker, MemoryTransport

Got = list[ReceivedMessage]


def client(
    broker: MemoryBroker, will: Will | None = None
) -> tuple[MemoryTransport, Got]:
    got: Got = []
    return broker.connect(got.append, lambda _: None, will), got


def test_a_connection_is_said_before_connect_returns() -> None:
    links: list[bool] = []
    MemoryBroker().connect(lambda _: None, links.append)
    assert links == [True]


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("+", "a/b", False),
        ("a/+", "a/", True),
    ],
)
def test_filters_match_as_the_standard_says(
    pattern: str, topic: str, matches: bool
) -> None:
    broker = MemoryBroker()
    (listener, got), (speaker, _) = client(broker), client(broker)
    listener.subscribe(pattern)
    speaker.publish(topic, b"x")
    assert got == ([ReceivedMessage(topic, b"x")] if matches else [])


def test_overlapping_filters_deliver_once_and_are_given_back() -> None:
    broker = MemoryBroker()
    (listener, got), (speaker, _) = client(broker), client(broker)
    for pattern in ("a/+", "a/b", "a/b"):
        listener.subscribe(pattern)
    speaker.publish("a/b", b"x")
    assert len(got) == 1
    listener.unsubscribe("a/b")
    speaker.publish("a/b", b"x")
    listener.unsubscribe("a/+")
    listener.unsubscribe("a/+")
    speaker.publish("a/b", b"x")
    assert len(got) == 2


def test_retained_messages_wait_and_an_empty_one_wipes() -> None:
    broker = MemoryBroker()
    speaker, _ = client(broker)
    speaker.publish("a/1", b"old", retain=True)
    speaker.publish("a/1", b"new", retain=True)
    speaker.publish("a/2", b"not kept")
    listener, got = client(broker)
    listener.subscribe("a/+")
    assert got == [ReceivedMessage("a/1", b"new")]
    speaker.publish("a/1", b"", retain=True)
    assert broker.retained("a/1") is None


def test_a_will_is_spoken_on_death_and_not_on_goodbye() -> None:
    broker = MemoryBroker()
    listener, got = client(broker)
    listener.subscribe("s/+")
    for name, leave in (("die", "die"), ("bye", "close")):
        link, _ = client(broker, Will(f"s/{name}", b"gone"))
        getattr(link, leave)()
        getattr(link, leave)()
    assert got == [ReceivedMessage("s/die", b"gone")]
    assert broker.retained("s/die") == b"gone"


@given(st.lists(st.binary(max_size=50), max_size=9))
def test_traffic_is_the_payload_bytes(payloads: list[bytes]) -> None:
    broker = MemoryBroker()
    (listener, _), (speaker, _) = client(broker), client(broker)
    listener.subscribe("#")
    for payload in payloads:
        speaker.publish("a", payload)
    size = sum(map(len, payloads))
    assert speaker.traffic() == (size, 0)
    assert listener.traffic() == (0, size)


def test_who_has_left_hears_nothing() -> None:
    broker = MemoryBroker()
    (listener, got), (speaker, _) = client(broker), client(broker)
    listener.subscribe("#")
    listener.close()
    speaker.publish("a", b"x")
    assert got == []
