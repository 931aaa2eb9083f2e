"""The reader of MQTT packets: wherever the stream is cut, the same messages arrive."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import mosquitto
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from patience import patience
from walls import Listener

from edge_sdk.transport.address import Address
from edge_sdk.transport.base import OutgoingMessage, ReceivedMessage
from edge_sdk.transport.client import (
    MAX_INCOMING,
    Client,
    PublishPacket,
    together,
    wake,
)
from edge_sdk.transport.client.waker import MOST_TOGETHER
from edge_sdk.transport.dialect import Dialect
from edge_sdk.transport.link import Link
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire.blob import AROUND
from edge_sdk.wire.codec import MAX_DATA

WAIT_S = patience(20.0)
FIVE, THREE = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
PINGRESP, PROTOCOL = b"\xd0\x00", MQTTErrorCode.MQTT_ERR_PROTOCOL
EXPIRY = b"\x02\x00\x00\x00\x3c"  # MessageExpiryInterval, 60 s


# -- the reader alone ------------------------------------------------------------------


def packet(first: int, body: bytes) -> bytes:
    """A packet as section 2.1.4 of MQTT 5.0 has it."""
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([first, *length, size]) + body


def publish(
    topic: str, payload: bytes, mid: int = 0, properties: bytes | None = None
) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name
    body += mid.to_bytes(2, "big") if mid else b""
    if properties is not None:
        body += bytes([len(properties)]) + properties
    return packet(0x32 if mid else 0x30, body + payload)


class Fed(Client):
    """A client whose bytes come from the test."""

    def __init__(self, protocol: MQTTProtocolVersion = FIVE) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, "fed", protocol=protocol)
        self.near, far = socket.socketpair()
        far.setblocking(False)
        self._sock, self._pieces = far, b""
        self.took: list[PublishPacket] = []
        self.left_out: list[tuple[str, int]] = []
        self.most = 0
        self.take = self.took.append
        self.too_large = lambda topic, size: self.left_out.append((topic, size))
        self.reasons = {}

    def feed(self, stream: bytes, cuts: list[int]) -> MQTTErrorCode:
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            self._pieces = stream[start:end]
            failed = self.loop_read() if self._pieces else MQTTErrorCode(0)
            self.most = max(self.most, len(self._arrived))
            if failed:
                return failed
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        assert len(self._pieces) <= bufsize
        return self._pieces

    def sent(self) -> bytes:
        self.loop_write()
        with contextlib.suppress(BlockingIOError):
            return self.near.recv(65_536, socket.MSG_DONTWAIT)
        return b""


@contextlib.contextmanager
def fed(protocol: MQTTProtocolVersion = FIVE) -> Iterator[Fed]:
    client = Fed(protocol)
    try:
        yield client
    finally:
        client.near.close()
        client._reset_sockets()


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes, int]:
    topic = draw(st.text("aé/", min_size=1, max_size=200))
    payload = draw(st.binary(max_size=300)) * draw(st.sampled_from([1, 1, 60]))
    return topic, payload, draw(st.integers(0, 65_535))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(messages(), max_size=6),
    st.sampled_from([FIVE, THREE]),
    st.sampled_from([b"", EXPIRY]),
    st.data(),
)
def test_messages_are_the_same_wherever_the_stream_is_cut(
    given_: list[tuple[str, bytes, int]],
    protocol: MQTTProtocolVersion,
    properties: bytes,
    data: st.DataObject,
) -> None:
    kept = properties if protocol is FIVE else None
    stream = b"".join(publish(*each, kept) + PINGRESP for each in given_)
    places = st.integers(0, len(stream))
    cuts = data.draw(st.lists(places, max_size=12).map(sorted))
    with fed(protocol) as client:
        assert client.feed(stream, cuts) == 0
        assert client.took == given_
        assert len(client._arrived) == 0


def test_each_byte_may_come_alone() -> None:
    stream = publish("t/1", b"one", 7, EXPIRY) + publish("t/2", bytes(200), 0, b"")
    with fed() as client:
        assert client.feed(stream, [*range(1, len(stream))]) == 0
        assert client.took == [("t/1", b"one", 7), ("t/2", bytes(200), 0)]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([FIVE, THREE]), st.data())
def test_any_bytes_end_the_link_or_wait_and_nothing_raises(
    noise: bytes, protocol: MQTTProtocolVersion, data: st.DataObject
) -> None:
    """Of real packets too, with a byte that was changed on the way."""
    real = bytearray(publish("t/1", b"one", 7, b"") + b"\x90\x03\x00\x01\x00" + noise)
    if data.draw(st.booleans()):
        real[data.draw(st.integers(0, len(real) - 1))] ^= data.draw(st.integers(1, 255))
    cuts = data.draw(st.lists(st.integers(0, len(real)), max_size=4).map(sorted))
    with fed(protocol) as client:
        client.feed(bytes(real), cuts)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x30\x01\x00",  # shorter than the length of its topic
        b"\x30\x04\x00\x09ab",  # a topic beyond the packet
        b"\x32\x03\x00\x01a",  # no identifier
        b"\x32\x05\x00\x01a\x00\x00",  # identifier 0
        b"\x30\x04\x00\x01a\x05",  # properties beyond the packet
        b"\x30\x03\x00\x01a" + PINGRESP,  # no properties: the next packet is not them
        b"\x30\x05\x00\x02\xff\xfe\x00",  # a topic that is not UTF-8
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x36\x05\x00\x01a\x00\x01",  # QoS 3
        b"\x90\x01\x00",  # a SUBACK cut short
        b"\x40\x00",  # a PUBACK of nothing
        b"\xb0\xff\xff\xff\x7f" + bytes(70_000),  # 256 MB that are no message
    ],
)
def test_what_is_no_packet_ends_the_link(stream: bytes) -> None:
    with fed() as client:
        client.took.clear()
        assert client.feed(stream, []) == PROTOCOL
        assert client._sock is None
        assert client.took == []


@settings(max_examples=20, deadline=None)
@given(
    st.integers(MAX_INCOMING + 1, 1_500_000),
    st.integers(0, 65_535),
    st.lists(st.integers(1, 200_000), min_size=8, max_size=40),
)
def test_a_message_above_all_of_ours_is_acknowledged_and_never_held(
    size: int, mid: int, steps: list[int]
) -> None:
    stream = publish("t/big", bytes(size), mid, b"") + publish("t/2", b"x", 0, b"")
    cuts, at = [], 0
    while at + 200_000 < len(stream):
        at += steps[len(cuts) % len(steps)]
        cuts.append(at)
    with fed() as client:
        assert client.feed(stream, cuts) == 0
        assert client.took == [("t/2", b"x", 0)]
        assert [topic for topic, _ in client.left_out] == ["t/big"]
        assert client.most <= 65_539 + 200_000
        assert client.sent() == (b"\x40\x02" + mid.to_bytes(2, "big") if mid else b"")


def test_who_takes_larger_packets_holds_those_and_no_larger_ones() -> None:
    """As a coordinator does, whom devices send chunks of 256 KiB."""
    size = MAX_DATA + AROUND
    fits = publish("t/up", bytes(size - 6), 0, None)
    assert len(fits) == size + 4
    beyond = publish("t/big", bytes(size), 0, None)
    with fed(THREE) as client:
        client.most_incoming = size + 4
        stream = fits + beyond + fits
        assert client.feed(stream, [*range(99_999, len(stream), 99_999)]) == 0
        assert [len(found.payload) for found in client.took] == [size - 6] * 2
        assert [topic for topic, _ in client.left_out] == ["t/big"]


def test_a_message_of_qos_2_is_taken_once_as_paho_does_it() -> None:
    body = b"\x00\x03t/1\x00\x09\x00two"
    with fed() as client:
        client.feed(packet(0x34, body) + packet(0x62, b"\x00\x09"), [])
        assert client.took == [("t/1", b"two", 0)]


def test_acknowledgements_go_out_together_and_in_order() -> None:
    with fed() as client:
        for mid in (1, 258, 65_535):
            client.acknowledge(mid)
        assert client.sent().hex(" ", 4) == "40020001 40020102 4002ffff"
        assert client.sent() == b""


def test_the_network_thread_is_woken_once_for_all_that_waits() -> None:
    """And again for what comes after its look, whoever sends."""
    with fed() as client:
        woken, client._sockpairW = socket.socketpair()
        client._thread = threading.current_thread()  # as if it ran
        for look in range(2):
            for mid in range(1, 50):
                client.acknowledge(mid)
                client.publish(f"t/{look}", b"x", qos=1)
            assert len(woken.recv(99, socket.MSG_DONTWAIT)) == 1
            assert client.sent()
            assert client.sent() == b""
        client._thread = None
        woken.close()


def test_what_a_block_sends_together_wakes_the_network_thread_once() -> None:
    """Or once for each `MOST_TOGETHER`; never for what a look has found meanwhile."""
    with fed() as client:
        woken, client._sockpairW = socket.socketpair()
        woken.setblocking(False)
        client._thread = threading.current_thread()  # as if it ran

        def wakes() -> int:
            with contextlib.suppress(BlockingIOError):
                return len(woken.recv(99))
            return 0

        with together():
            for mid in range(1, MOST_TOGETHER):
                client.acknowledge(mid)
            assert wakes() == 0
            assert client.want_write()  # a thread that is awake finds them
            client.acknowledge(MOST_TOGETHER)
            assert wakes() == 1
            assert len(client.sent()) == 4 * MOST_TOGETHER
            client.acknowledge(99)
            with together():
                client.acknowledge(100)
            assert wakes() == 0  # the outer block goes on
            other = threading.Thread(target=client.acknowledge, args=(101,))
            other.start()
            other.join()
            assert wakes() == 1  # that thread is in no block
            client.sent()
            client.acknowledge(102)
        assert wakes() == 1
        client.sent()
        with together() as waiting:
            client.acknowledge(103)
            assert wakes() == 0
            assert waiting
            wake(waiting)
            assert wakes() == 1
            assert not waiting
        client.sent()
        with together():
            client.acknowledge(103)
            client.sent()
        assert wakes() == 0  # it has looked
        with contextlib.suppress(ValueError), together():
            client.acknowledge(104)
            raise ValueError
        assert wakes() == 1
        client._thread = None
        woken.close()


def test_packets_that_wait_go_out_by_one_call_and_unchanged() -> None:
    """Messages of QoS 0 and the DISCONNECT go alone: paho goes on after each."""
    with fed() as client:
        client._thread = threading.current_thread()  # as if it ran
        calls: list[bytes] = []
        send = client._sock_send
        client._sock_send = lambda data: calls.append(bytes(data)) or send(data)
        for mid in range(1, 4):
            client.acknowledge(mid)
        sure = [client.publish(f"t/{i}", b"x" * i, qos=1) for i in range(4)]
        once = client.publish("t/once", b"y", qos=0)
        last = client.publish("t/last", bytes(70_000), qos=1)
        client.publish("t/after", b"z", qos=1)
        sent = b"".join(iter(client.sent, b""))
        assert sent == b"".join(
            [
                *(publish(f"t/{i}", b"x" * i, m.mid, b"") for i, m in enumerate(sure)),
                publish("t/once", b"y", 0, b""),
                publish("t/last", bytes(70_000), last.mid, b""),
                publish("t/after", b"z", last.mid + 1, b""),
                *(b"\x40\x02" + mid.to_bytes(2, "big") for mid in range(1, 4)),
            ]
        )
        assert once.is_published()
        assert not any(one.is_published() for one in sure)
        assert calls[0] == sent[: len(calls[0])]
        assert len(calls[0]) == sum(
            len(publish(f"t/{i}", b"x" * i, 1, b"")) for i in range(4)
        )
        client._thread = None


# -- with brokers ----------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("dialect", [*Dialect])
@pytest.mark.parametrize("window", [None, 4])
def test_many_messages_too_large_do_not_fill_a_brokers_window(
    dialect: Dialect,
    window: int | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is acknowledged: mosquitto sends 20 ahead, and 4 with a window of 4."""
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    large, chunk = OutgoingMessage("t/large", bytes(200_000)), os.urandom(65_536)
    with mosquitto(tmp_path, "allow_anonymous true", "max_queued_messages 0") as there:
        link = Link(
            there, "x1", dialect, got.put, will=None, window=window, meter=Meter()
        )
        try:
            link.subscribe(["t/+"])  # before what follows on the same link
            for _ in range(25):
                link.publish(large)
                link.publish(OutgoingMessage("t/1", chunk))
            for _ in range(25):
                message = got.get(timeout=WAIT_S)
                assert (message.topic, message.payload == chunk) == ("t/1", True)
                message.ack()
            assert got.empty()
        finally:
            link.close()
    said = [m for m in caplog.messages if "dropped a message of 2000" in m]
    # A broker of MQTT 5 is told our size and keeps them to itself.
    assert len(said) == (dialect is Dialect.V311)


class Garbling(Listener):
    """A broker whose SUBACK is cut short, on the first connection."""

    def serve(self, link: socket.socket) -> None:
        five = link.recv(4096)[8] == 5
        link.sendall(b"\x20\x03\x00\x00\x00" if five else b"\x20\x02\x00\x00")
        subscribe = link.recv(4096)
        self.asked.append(subscribe[2:4].hex())
        ends = b"\x90\x04" + subscribe[2:4] + b"\x00\x01"
        link.sendall(b"\x90\x01\x00" if len(self.asked) == 1 else ends)
        link.sendall(publish("t/1", b"here", 0, b"" if five else None))
        link.recv(1)


def test_a_broker_that_sends_no_mqtt_is_left_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.02, 0.5))
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    with Garbling() as broker:
        there = Address("127.0.0.1", broker.port)
        with contextlib.closing(
            MqttTransport(there, "x1", got.put, lambda _: None, wait_s=WAIT_S)
        ) as transport:
            transport.subscribe("t/1")
            assert got.get(timeout=WAIT_S).payload == b"here"
        assert len(broker.asked) == 2
    assert any("the link to the broker is down" in m for m in caplog.messages)
