"""Answers to a CONNECT: of who wants something else, or tells much of itself."""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import mosquitto
from limiting import LimitingBroker
from paho.mqtt.reasoncodes import ReasonCode
from patience import patience
from walls import Answering, Listener, pipe
from whole_run import run_through

from edge_sdk.transport import mqtt
from edge_sdk.transport.address import Address, Tls
from edge_sdk.transport.dialect import ANSWER_S, SLOW, RefusedError
from edge_sdk.transport.limits import PROFILES
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.open_link import open_link
from edge_sdk.transport.proxy import Proxy
from edge_sdk.transport.refusals import REMEDIES

WAIT_S = patience(20.0)


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def connack(reason: int, *properties: bytes) -> bytes:
    told = b"".join(properties)
    return bytes([0x20, 3 + len(told), 0, reason, len(told)]) + told


def refusal(address: Address) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        open_link(address, "x1", print, will=None, window=None, meter=Meter())
    return caught.value


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            connack(
                0x9D, b"\x1c" + text("new.example:8883"), b"\x1f" + text("\x1b[2J")
            ),
            r"Server moved .*it names new.example:8883; it says: \\x1b\[2J$",
        ),
        (connack(0x9C, b"\x1c" + text("b.example")), "Use another .*names b.example$"),
        (connack(0x87, b"\x1f" + text("no licence")), "Not auth.*says: no licence$"),
        (connack(0x8C), "a sign-in that we do not know"),
        (b"\xf0\x02\x18\x00", "a sign-in by AUTH"),
        (
            b"<html>busy</html>",
            "answers our CONNECT by b'<html>bu', which is no CONNACK",
        ),
        (b"\x30\x05\x00\x01aXX", "which is no CONNACK"),
        (connack(0x05), "Unspecified error"),
        (connack(0xEE, b"\x1f" + text("because")), "Unspecified.*says: because$"),
    ],
)
def test_an_answer_that_lets_nobody_in_is_named_with_the_brokers_words(
    answer: bytes, said: str
) -> None:
    with Answering(answer) as broker:
        refused = refusal(Address("127.0.0.1", broker.port))
    with pytest.raises(RefusedError, match=said):
        raise refused


def test_a_proxy_that_answers_in_a_brokers_place_is_named() -> None:
    """It says that it has made the connection, and sends its page."""
    with Answering(b"HTTP/1.1 200 OK\r\n\r\n<html>Please sign in</html>") as wall:
        proxy = Proxy("http", "127.0.0.1", wall.port)
        for tls in (None, Tls()):
            refused = refusal(Address("broker.example", 8883, proxy=proxy, tls=tls))
            assert f"or the proxy {proxy.url} answers in the broker's" in str(refused)


def test_each_remedy_is_of_a_reason_that_there_is() -> None:
    names = {name for places in ReasonCode.names.values() for name in places}
    assert set(REMEDIES) <= names


def test_an_answer_that_is_none_is_shown() -> None:
    with Answering(b"\x20\x05\x00\x00\x02\x7f\x01") as broker:  # no such property
        here = Address("127.0.0.1", broker.port)
        with pytest.raises(ConnectionError, match=r"none that there is: b' \\x05.*x7f"):
            open_link(here, "x1", print, will=None, window=None, meter=Meter())


def test_reasons_that_mqtt_does_not_have_are_said_by_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RETRY_S", (0.05, 0.2))
    links: queue.Queue[bool] = queue.Queue()
    with Answering(connack(0) + b"\xe0\x02\x77\x00") as broker:
        given = Address("127.0.0.1", broker.port), "x1", print, links.put
        with contextlib.closing(MqttTransport(*given)):
            assert [links.get(timeout=WAIT_S) for _ in range(2)] == [True, False]
    assert "ends the link for reason 119, which MQTT does not have" in caplog.text


class Slow(Listener):
    """Lets a CONNECT wait before it leads to a broker."""

    def __init__(self, to: int, seconds: float) -> None:
        self._to, self._seconds = to, seconds
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        time.sleep(self._seconds)
        pipe(link, socket.create_connection(("127.0.0.1", self._to)))


@pytest.mark.broker
def test_a_broker_that_is_slow_is_given_longer_each_time(tmp_path: Path) -> None:
    links: queue.Queue[bool] = queue.Queue()
    with (
        mosquitto(tmp_path, "allow_anonymous true") as there,
        Slow(there.port, 1.2 * ANSWER_S) as slow,
    ):
        here = Address("127.0.0.1", slow.port)
        with contextlib.closing(MqttTransport(here, "x1", print, links.put)):
            assert links.get(timeout=WAIT_S)
        assert SLOW.times(here) > 1
        for _ in range(9):
            SLOW.note(here)
        assert SLOW.times(here) * ANSWER_S <= 8  # it is bounded


class Telling(Listener):
    """Tells of itself in the CONNACK, in place of what the broker behind it says."""

    def __init__(self, to: int, *properties: bytes) -> None:
        self._to, self._told = to, connack(0, *properties)
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        other = socket.create_connection(("127.0.0.1", self._to))
        other.sendall(link.recv(65_536))  # the CONNECT
        other.recv(2 + other.recv(2, socket.MSG_PEEK)[1], socket.MSG_WAITALL)
        link.sendall(self._told)
        pipe(link, other)


@pytest.mark.broker
def test_a_run_keeps_to_all_that_a_broker_tells_of_itself(tmp_path: Path) -> None:
    """Each property of a CONNACK that asks for something, or is not for us."""
    told = (
        b"\x11\x00\x00\x00\x00",  # sessions end with their link
        b"\x21\x00\x01",  # one message at a time
        b"\x24\x01",  # QoS 1 at most
        b"\x27\x00\x02\x00\x00",  # packets of 128 KiB
        b"\x12" + text("another-id"),
        b"\x22\x00\x01",  # one topic alias
        b"\x26" + text("zone") + text("b"),
        b"\x29\x00\x2a\x00",  # neither subscription identifiers nor shared ones
        b"\x13\x00\x05",  # a keepalive of 5 s
        b"\x1a" + text("response") + b"\x1c" + text("other.example"),
    )
    limits = replace(PROFILES["mosquitto"], inflight=1, packet=128 * 1024)
    with (
        mosquitto(tmp_path, "allow_anonymous true") as there,
        LimitingBroker(there.port, limits, "close") as strict,
        Telling(strict.port, *told) as front,
    ):
        found = run_through(Address("127.0.0.1", front.port), tmp_path, rounds=1)
        assert found["rounds_done"] == 1
        assert dict(strict.breaches) == {}, strict.told
