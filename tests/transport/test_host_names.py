"""Names of hosts that lead nowhere are told apart; a slow resolver holds nothing up.

What the resolver says is put in its place: a machine's own cannot be told what to say.
The connections are real.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from patience import patience

from coordinator.broker.check import check_broker
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address, parse_url
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.proxy import Proxy, ProxyError, dial
from edge_sdk.transport.tcp import HostNameError, connection_to, host_names

WAIT_S = patience(20.0)
HOST = "broker.example"


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections, and of 127.0.0.2 that does not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def resolver_says(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    def ask(_host: str, port: int, **_named: Any) -> list[Any]:
        if isinstance(found, Exception):
            raise found
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port),
            )
            for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", ask)


@pytest.mark.parametrize(
    ("found", "said", "remedy"),
    [
        (socket.gaierror(socket.EAI_NONAME, "raw"), "there is no host of", "correct"),
        (socket.gaierror(socket.EAI_AGAIN, "raw"), "no name server tells", "resolv"),
        (socket.gaierror(socket.EAI_FAIL, "raw"), "no name server tells", "resolv"),
        (OSError(errno.EIO, "raw"), "no name server tells", "resolv"),
        (UnicodeError("raw"), "cannot be the name of a host", "correct"),
    ],
)
def test_a_name_that_leads_nowhere_is_named_with_the_remedy(
    found: Exception, said: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver_says(monkeypatch, found)
    with pytest.raises(HostNameError, match=said) as caught:
        connection_to(HOST, 1883, WAIT_S)
    assert HOST in str(caught.value)
    assert remedy in str(caught.value)
    assert "raw" not in str(caught.value)
    for ask in (check_broker, at_once):
        with pytest.raises(BrokerError, match=said):
            ask(Address(HOST, 1883))


def at_once(there: Address) -> None:
    MqttTransport(there, "x1", print, lambda _: None, wait_s=WAIT_S, once=True).close()


def test_a_local_name_has_its_own_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver_says(monkeypatch, socket.gaierror(socket.EAI_NONAME, "raw"))
    with pytest.raises(HostNameError, match="libnss-mdns"):
        connection_to("pi.local", 1883, WAIT_S)


def test_the_second_address_is_taken_where_the_first_is_dead(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    resolver_says(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    with connection_to(HOST, port, WAIT_S) as link:
        assert link.getpeername() == ("127.0.0.1", port)
        assert link.gettimeout() == pytest.approx(WAIT_S)
    (said,) = [m for m in caplog.messages if HOST in m]
    assert "127.0.0.2 (Connection refused) does not answer, 127.0.0.1 does" in said


def test_each_dead_address_is_named_with_its_reason(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver_says(monkeypatch, ["127.0.0.2", "127.0.0.3"])
    with pytest.raises(ConnectionError, match=r"none of the addresses") as caught:
        connection_to(HOST, port, WAIT_S)
    assert str(caught.value).count("Connection refused") == 2
    resolver_says(monkeypatch, ["127.0.0.2"])
    with pytest.raises(ConnectionRefusedError):
        connection_to(HOST, port, WAIT_S)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["2001:db8::7", "2001:db8::8"], "IPv6 alone"),
        (["2001:db8::7", "192.0.2.7"], "network are up"),
        (["192.0.2.7"], "network are up"),
    ],
)
def test_a_network_without_a_way_there_is_named(
    found: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks differ in what they lead to, so the kernel's answer is given here."""

    def no_way(*_: object) -> socket.socket:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(host_names, "_connected", no_way)
    resolver_says(monkeypatch, found)
    with pytest.raises(ConnectionError, match=said) as caught:
        connection_to(HOST, 1883, WAIT_S)
    assert f"{HOST} ({found[0]})" in str(caught.value)


def test_an_answer_that_comes_late_is_there_for_the_next_attempt(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = [], threading.Event()

    def slow(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        go.wait(WAIT_S)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(host_names, "LOOK_UP_S", 0.05)
    for _ in range(2):
        with pytest.raises(HostNameError, match="no name server tells"):
            connection_to(HOST, port, WAIT_S)
    go.set()
    monkeypatch.setattr(host_names, "LOOK_UP_S", WAIT_S)
    connection_to(HOST, port, WAIT_S).close()
    assert asked == [HOST]


def test_a_transport_ends_while_the_resolver_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        begun.set()
        go.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(host_names, "LOOK_UP_S", 0.2)
    transport = MqttTransport(Address(HOST, 1884), "x1", print, lambda _: None)
    assert begun.wait(WAIT_S)
    transport.close()  # it would wait for ever
    go.set()


def test_a_proxy_that_is_not_reached_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is tried again, as a broker is."""
    resolver_says(monkeypatch, socket.gaierror(socket.EAI_AGAIN, "raw"))
    there = parse_url("mqtts://127.0.0.1:1883")
    there = Address(there.host, there.port, proxy=Proxy("http", "proxy.example", 3128))
    with pytest.raises(ConnectionError, match="cannot be reached: no name") as caught:
        dial(there, WAIT_S)
    assert not isinstance(caught.value, ProxyError)
