"""Limits as values: named, told, found out; and what keeps to them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import BrokerError, SettingsError
from edge_sdk.transport.address import Address, Tls, parse_url, url_for_devices
from edge_sdk.transport.backoff import Ending, Parted
from edge_sdk.transport.base import OutgoingMessage
from edge_sdk.transport.limits import NO_LIMIT, PROFILES, BrokerLimits, limits_of, told
from edge_sdk.transport.limits.pacing import SendQueue
from edge_sdk.transport.limits.suspicion import KEPT, LEAST_PACKET, lowered
from edge_sdk.transport.limits.window import SubscriptionWindow
from edge_sdk.wire import topics
from edge_sdk.wire.blob import AROUND, chunk_size_for

LONGEST = "a" * 63  # the longest name that a federation or a device may have


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a1b2c3-ats.iot.eu-west-1.amazonaws.com", "aws-iot"),
        ("A1B2C3.IOT.us-east-1.AmazonAWS.com", "aws-iot"),
        ("mine.westeurope-1.ts.eventgrid.azure.net", "event-grid"),
        ("abcd.ala.eu-central-1.emqxsl.com", "emqx"),
        ("0123abcd.s1.eu.hivemq.cloud", "hivemq"),
        ("ns.cloudflarepubsub.com", "cloudflare"),
        ("ec2-1-2-3-4.compute.amazonaws.com", ""),
        ("broker.example", ""),
    ],
)
def test_a_known_broker_is_known_by_its_host_name(host: str, name: str) -> None:
    assert limits_of("", host).name == name
    assert parse_url(f"mqtts://{host}:8883").limits.name == name
    assert parse_url(f"mqtts://{host}", profile="mosquitto").limits.name == "mosquitto"


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    for ask in (
        lambda: limits_of("aws"),
        lambda: parse_url("mqtt://h?profile=aws"),
    ):
        with pytest.raises(SettingsError, match="'aws'") as caught:
            ask()
        assert "aws-iot" in caught.value.help


@pytest.mark.parametrize("limits", PROFILES.values(), ids=lambda p: p.name)
def test_every_topic_and_a_chunk_fit_every_known_broker(limits: BrokerLimits) -> None:
    longest = (
        topics.upload(LONGEST, LONGEST, 0, data=True),
        topics.chunk(LONGEST, "0" * 64, 2047),
        topics.next_key(LONGEST, 999_999),
    )
    for topic in longest:
        assert len(topic.encode()) <= limits.topic_bytes
        assert topic.count("/") <= limits.topic_slashes
    chunk = chunk_size_for(limits.retained_packet or limits.packet)
    assert chunk >= 60_000
    packet = OutgoingMessage(longest[1], bytes(chunk)).size
    assert packet <= (limits.retained_packet or limits.packet)
    assert chunk + AROUND <= limits.packet


def test_what_a_connack_tells_lowers_limits_and_raises_none() -> None:
    aws = PROFILES["aws-iot"]
    given = SimpleNamespace(
        MaximumPacketSize=20_000, ReceiveMaximum=10, MaximumQoS=0, ServerKeepAlive=60
    )
    found = told(aws, given)
    assert (found.packet, found.inflight, found.qos) == (20_000, 10, 0)
    assert (found.keepalive_s, found.filters, found.retained) == (60, 8, 131_072)
    more = SimpleNamespace(MaximumPacketSize=NO_LIMIT, ReceiveMaximum=65_535)
    assert told(aws, more) == aws
    none = SimpleNamespace(RetainAvailable=0, WildcardSubscriptionAvailable=0)
    assert (told(aws, none).retained, told(aws, none).wildcards) == (0, False)
    assert told(aws, SimpleNamespace()) == aws


# -- found out -------------------------------------------------------------------------


def test_limits_that_links_end_behind_are_halved_from_the_second_time_on() -> None:
    limits = BrokerLimits()
    large = Ending(0.5, Parted("f/dat", 65_000))
    assert lowered(limits, large, cuts=1, bursts=0) == (limits, "")
    found, why = lowered(limits, large, cuts=2, bursts=0)
    assert found.packet == 32_500
    assert "a message of 65000 bytes to f/dat" in why
    assert "packets of 32500 bytes" in why
    asks = Ending(0.5, Parted("f/m/0", 900, filters=32, held=35))
    found, why = lowered(limits, asks, cuts=2, bursts=0)
    assert (found.filters, found.packet) == (16, NO_LIMIT)
    assert "a SUBSCRIBE of 32 filters" in why
    one = Ending(0.5, Parted("f/m/0", 60, filters=1, held=35))
    assert lowered(limits, one, cuts=2, bursts=0)[0].subscriptions == 17
    burst = Ending(0.5, burst=40)
    assert lowered(limits, burst, cuts=0, bursts=2) == (limits, "")
    assert lowered(limits, burst, cuts=0, bursts=3)[0].publishes_per_s == 20


@pytest.mark.parametrize(
    ("reason", "end", "changed"),
    [
        (0x93, Ending(9.0), {"inflight": 32}),
        (0x95, Ending(9.0, Parted("t", 50_000)), {"packet": 25_000}),
        (0x96, Ending(9.0, burst=30), {"publishes_per_s": 15}),
        (0x97, Ending(9.0, Parted("t", 60, 4, 20)), {"subscriptions": 10}),
        (0x9A, Ending(9.0), {"retained": 0}),
        (0x9B, Ending(9.0), {"qos": 0}),
        (0xA2, Ending(9.0), {"wildcards": False}),
    ],
)
def test_a_reason_of_the_broker_counts_at_once(
    reason: int, end: Ending, changed: dict[str, int]
) -> None:
    ended = Ending(end.lived_s, end.unanswered, reason, end.burst)
    found, why = lowered(BrokerLimits(), ended, cuts=0, bursts=0)
    assert found == BrokerLimits().within(**changed)
    assert why


def test_a_broker_that_cuts_links_behind_what_it_should_retain_retains_nothing() -> (
    None
):
    end = Ending(0.1, Parted("f/ann", 280, retain=True))
    none = BrokerLimits()
    assert lowered(none, end, cuts=KEPT - 1, bursts=0) == (none, "")
    found, why = lowered(none, end, cuts=KEPT, bursts=0)
    assert found == BrokerLimits(retained=0)
    assert why.endswith("from now on nothing retained")
    plain = Ending(0.1, Parted("f/ctl", 280))
    assert lowered(none, plain, cuts=9, bursts=0) == (none, "")


def test_halving_ends_and_small_messages_are_not_blamed_on_their_size() -> None:
    limits, size = BrokerLimits(), 65_000
    for _ in range(20):
        end = Ending(0.1, Parted("t", size))
        limits, why = lowered(limits, end, cuts=9, bursts=0)
        size = min(size, limits.packet)
        if not why:
            break
    assert LEAST_PACKET <= limits.packet < 2 * LEAST_PACKET
    assert chunk_size_for(limits.packet) > 1000


# -- kept to ---------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 70_000), min_size=1, max_size=40),
    rate=st.integers(1, 50),
)
@settings(max_examples=30, deadline=None)
def test_no_second_has_more_than_the_broker_takes(sizes: list[int], rate: int) -> None:
    limits = BrokerLimits(publishes_per_s=rate, bytes_per_s=200_000)
    waiting, now, sent = SendQueue(), 0.0, []
    for number, size in enumerate(sizes):
        assert waiting.put(OutgoingMessage(f"t/{number}", bytes(size)))
    while len(waiting):
        message, wait_s = waiting.take(limits, now)
        if message is None:
            assert wait_s > 0
            now += wait_s
        else:
            sent.append((now, message.size))
    assert len(sent) == len(sizes)
    for start, _ in sent:
        second = [size for at, size in sent if start <= at < start + 1.0]
        assert len(second) <= rate
        assert sum(second) - max(second) <= 200_000
    small = [size <= 8192 for _, size in sent]
    assert small == sorted(small, reverse=True)  # chunks do not hold orders up


def test_what_waits_already_is_not_sent_twice_and_the_later_retained_one_counts() -> (
    None
):
    waiting = SendQueue()
    chunk = OutgoingMessage("m/1", bytes(20_000))
    for message in (
        chunk,
        OutgoingMessage("st", b"old", retain=True),
        OutgoingMessage("m/1", bytes(20_000)),
        OutgoingMessage("st", b"new", retain=True),
        OutgoingMessage("big", bytes(20_000), retain=True),
        OutgoingMessage("big", b"", retain=True),  # wiped before it was sent
    ):
        assert waiting.put(message)
    limits, now, sent = BrokerLimits(publishes_per_s=1), 0.0, []
    while len(waiting):
        message, wait_s = waiting.take(limits, now)
        now += wait_s
        if message is not None:
            sent.append((message.topic, len(message.payload)))
    assert sent == [("st", 3), ("big", 0), ("m/1", 20_000)]


def test_filters_beyond_the_subscriptions_wait_for_those_given_up() -> None:
    window = SubscriptionWindow()
    assert window.want("abcdef") == []
    assert window.fresh(4) == ["a", "b", "c", "d"]
    assert window.want("ab") == ["a", "b"]  # asked again: what is retained comes anew
    assert window.give_up("bf") == ["b"]
    assert window.fresh(4) == ["e"]
    assert len(window) == 4
    window.forget()
    assert window.fresh(9) == ["a", "c", "d", "e"]


# -- addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown", "alpn"),
    [
        ("ws://h", "ws://h:80/mqtt", ""),
        ("wss://u:p@h/a/b", "wss://h:443/a/b", ""),
        ("mqtts://h:443", "mqtts://h:443?alpn=mqtt", "mqtt"),
        ("mqtts://h:443?alpn=x", "mqtts://h:443?alpn=x", "x"),
        ("mqtts://[::1]:8883", "mqtts://[::1]:8883", ""),
        ("mqtt://a:1,b,[fe80::1]:9", "mqtt://a:1,b:1883,[fe80::1]:9", ""),
    ],
)
def test_every_kind_of_url_is_read_and_shown_without_its_password(
    url: str, shown: str, alpn: str
) -> None:
    found = parse_url(url)
    assert (found.url, found.alpn) == (shown, alpn)
    assert parse_url(shown).url == shown


def test_aws_tells_certificates_and_passwords_on_443_by_the_protocols_name() -> None:
    host = "a1-ats.iot.eu-west-1.amazonaws.com:443"
    assert parse_url(f"mqtts://{host}").alpn == "x-amzn-mqtt-ca"
    assert parse_url(f"mqtts://u:p@{host}").alpn == "mqtt"
    assert parse_url(f"wss://{host}").alpn == ""


@pytest.mark.parametrize(
    "url",
    ["http://h", "mqtt://h/x", "mqtts://h?x=1", "mqtts://h?ca=me", "ws://", "a,,b"],
)
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(BrokerError):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("wss://a,wss://b/mqtt", ":// twice"),
        ("mqtts://a,mqtts://b:8884", ":// twice"),
        ("mqtt://u:secret@a,u2:secret@b", "a user twice"),
        ("mqtt://a, b", "a space"),
        ("mqtt://a b", "a space"),
    ],
)
def test_a_list_of_addresses_that_is_written_otherwise_is_refused_in_words(
    url: str, said: str
) -> None:
    with pytest.raises(BrokerError, match=said) as caught:
        parse_url(url)
    assert "host:port,host:port" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_devices_are_told_what_they_cannot_know_of_a_users_broker() -> None:
    of_aws = Address("h", 8883, tls=Tls(), limits=PROFILES["aws-iot"])
    url = url_for_devices(of_aws)
    assert url == "mqtts://h:8883?profile=aws-iot&ca=system"
    pinned = Tls(authority=Path("pinned.pem"))
    found = parse_url(url, pinned)
    assert found.limits.name == "aws-iot"
    assert found.tls == Tls()  # a public authority, not the federation's
    plain = Address("h", 1883)
    assert url_for_devices(plain) == plain.url
