"""What a broker's CONNACK and reason codes tell, and what becomes of it."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import KINDS, AnyBroker, mosquitto, open_kind
from patience import patience
from typing_extensions import Self

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.dialect import Dialect, DialectCache
from edge_sdk.transport.limits import NO_LIMIT
from edge_sdk.transport.mqtt import MqttTransport

WAIT_S = patience(20.0)
HERE = Address("127.0.0.1", 1)


class Client:
    """A transport and what it got."""

    def __init__(self, address: Address, window: int | None = None) -> None:
        self.got: queue.Queue[ReceivedMessage] = queue.Queue()
        self.links: queue.Queue[bool] = queue.Queue()
        self.transport = MqttTransport(
            address, "x1", self.got.put, self.links.put, wait_s=WAIT_S, window=window
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()


def test_5_is_tried_first_and_what_answered_is_remembered_until_it_does_not() -> None:
    memory = DialectCache()
    assert memory.to_try(HERE) == (Dialect.V5, Dialect.V311)
    memory.spoke(HERE, Dialect.V311)
    assert memory.to_try(HERE) == (Dialect.V311,)
    assert len(memory.to_try(Address("127.0.0.1", 2))) == 2
    memory.forget(HERE)
    memory.forget(HERE)
    assert memory.to_try(HERE) == (Dialect.V5, Dialect.V311)


@pytest.mark.broker
@pytest.mark.parametrize("kind", KINDS)
def test_the_dialect_is_found_by_asking(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG", "edge_sdk.transport")
    monkeypatch.setattr("edge_sdk.transport.open_link._MEMORY", DialectCache())
    with contextlib.ExitStack() as stack:
        if kind == "rabbitmq":
            broker: AnyBroker = request.getfixturevalue("rabbit")
        else:
            broker = stack.enter_context(open_kind(kind, tmp_path))
        address = Address(broker.host, broker.port)
        for _ in range(2):
            with Client(address) as client:
                limited = client.transport.limits().packet < NO_LIMIT
        spoken = "5" if kind == "mosquitto" else "3.1.1"
        assert f"speaks MQTT {spoken}" in caplog.text
        # The second time it is known.
        assert caplog.text.count("a CONNECT of MQTT 5") <= 1
        assert limited is (kind == "mosquitto")


@pytest.mark.broker
def test_a_packet_larger_than_the_broker_takes_is_never_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """paho would reconnect and send it again, for ever."""
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 20000") as there:
        with Client(there) as client:
            assert client.links.get(timeout=WAIT_S)
            assert client.transport.limits().packet == 20_000
            client.transport.subscribe("t/+")
            for _ in range(3):
                client.transport.publish("t/large", bytes(20_000))
            client.transport.publish("t/small", bytes(19_900))
            assert client.got.get(timeout=WAIT_S).topic == "t/small"
            assert client.links.empty()
        assert caplog.text.count("the broker takes packets of 20000 bytes") == 1


@pytest.mark.broker
def test_an_expiry_beyond_its_32_bits_is_the_longest_there_is(tmp_path: Path) -> None:
    with (
        mosquitto(tmp_path, "allow_anonymous true") as there,
        Client(there) as client,
    ):
        client.transport.subscribe("t")
        client.transport.publish("t", b"x", expires_s=111_000_000_000)
        assert client.got.get(timeout=WAIT_S).payload == b"x"


@pytest.mark.broker
def test_what_waited_for_a_link_is_held_to_the_next_brokers_limit(
    tmp_path: Path,
) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 20000") as there:
        got: queue.Queue[ReceivedMessage] = queue.Queue()
        links: queue.Queue[bool] = queue.Queue()
        transport = MqttTransport(there, "x1", got.put, links.put)
        transport.subscribe("t/+")
        transport.publish("t/large", bytes(50_000))
        transport.publish("t/small", b"x")
        assert got.get(timeout=WAIT_S).topic == "t/small"
        assert links.get(timeout=WAIT_S)
        assert links.empty()
        transport.close()


@pytest.mark.broker
def test_no_more_than_the_window_is_sent_ahead(tmp_path: Path) -> None:
    with (
        mosquitto(tmp_path, "allow_anonymous true", "max_queued_messages 0") as there,
        Client(there, window=3) as slow,
    ):
        slow.transport.subscribe("t/+")
        for index in range(10):
            slow.transport.publish(f"t/{index}", b"x")
        first = [slow.got.get(timeout=WAIT_S) for _ in range(3)]
        with pytest.raises(queue.Empty):
            slow.got.get(timeout=0.5)
        for delivery in first:
            delivery.ack()
        for _ in range(7):
            slow.got.get(timeout=WAIT_S).ack()


@pytest.mark.broker
def test_a_broker_that_refuses_us_is_said_with_its_reason(tmp_path: Path) -> None:
    with (
        mosquitto(tmp_path, "allow_anonymous false") as there,
        pytest.raises(BrokerError, match=r"refuses us: Not authorized \(.*check user"),
    ):
        Client(there)


@pytest.mark.broker
def test_a_topic_that_the_access_list_forbids_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "acl").write_text("topic readwrite t/open\n")
    with (
        mosquitto(
            tmp_path, "allow_anonymous true", f"acl_file {tmp_path / 'acl'}"
        ) as there,
        Client(there) as client,
    ):
        client.transport.subscribe("t/open")
        for _ in range(3):
            client.transport.publish("t/closed", b"x")
        client.transport.publish("t/open", b"x")
        client.got.get(timeout=WAIT_S)
    said = [r for r in caplog.messages if "refused a message to t/closed" in r]
    assert len(said) == 1
    assert "Not authorized" in said[0]


@contextlib.contextmanager
def listening(answer: bytes, *, stays: bool) -> Iterator[Address]:
    """A port where each link gets an answer to its first bytes, if there is one."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0)))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    if answer:
                        link.recv(100)
                        link.sendall(answer)
                    if stays:
                        held.enter_context(link)
                    else:
                        link.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield Address("127.0.0.1", server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)


@pytest.mark.parametrize("stays", [True, False], ids=["silent", "hangs up"])
def test_what_listens_and_does_not_speak_mqtt_is_no_broker(
    stays: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_sdk.transport.link.ANSWER_S", 0.2)
    with (
        listening(b"", stays=stays) as address,
        pytest.raises(BrokerError, match="no MQTT broker answers"),
    ):
        MqttTransport(address, "x", print, print, wait_s=1.5)


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "hangs up"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers in HTTP.* wss://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "write mqtts://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "answers in SSH"),
    ],
    ids=["http", "tls", "ssh"],
)
def test_a_port_of_another_protocol_is_named_as_that(
    answer: bytes, said: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_sdk.transport.link.ANSWER_S", 0.5)
    with (
        listening(answer, stays=stays) as address,
        pytest.raises(BrokerError, match=said),
    ):
        MqttTransport(address, "x", print, print, wait_s=1.5)
