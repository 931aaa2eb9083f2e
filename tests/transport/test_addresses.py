"""Several addresses of a broker: lists in settings, SRV records, brokers that die."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import numpy as np
import pytest
from brokers import open_kind
from patience import patience

from coordinator.broker.check import check_broker
from coordinator.settings import load_run
from edge_sdk.broker_list import url_of_list
from edge_sdk.device.doctor import DoctorTarget
from edge_sdk.device.doctor.link import broker as doctor_broker
from edge_sdk.errors import BrokerError, DependencyError, SettingsError
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.transport.address import Address, Tls, parse_url, reachable
from edge_sdk.transport.address.records import Record, in_order
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.mqtt import MqttTransport

WAIT_S = patience(30.0)
URL = "mqtt+srv://fleet.example"


# -- in settings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (["a:8883", "b:8883"], "a:8883,b:8883"),
        (["mqtts://a", "b:8884"], "mqtts://a,b:8884"),
        (["mqtts://a", "mqtts://b"], "mqtts://a,b"),
        (["mqtts://u:p@a", "mqtts://u:p@[::1]:1"], "mqtts://u:p@a,[::1]:1"),
        (["wss://a/x?alpn=y", "wss://b/x?alpn=y"], "wss://a,b/x?alpn=y"),
        (["mqtts+srv://a"], "mqtts+srv://a"),
    ],
)
def test_a_list_of_addresses_is_one_url(given: list[str], url: str) -> None:
    assert url_of_list(given) == url
    parse_url(url)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the list is empty"),
        (["a", ""], "number 2"),
        (["a", 8883], "number 2"),
        (["mqtts://"], "number 1"),
        (["a,b"], "number 1"),
        (["mqtts://a", "mqtt://b"], "1 and 2 have different schemes"),
        (["mqtts://a", "wss://b"], "1 and 2 have different schemes"),
        (["mqtts://u:geheim@a", "b", "v:p@c"], "1 and 3 have different users"),
        (["wss://a/x", "wss://b/y"], "1 and 2 have different endings"),
    ],
)
def test_a_list_that_is_not_of_one_broker_is_refused(
    given: list[Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        url_of_list(given)
    assert "geheim" not in str(caught.value) + caught.value.help


def test_both_settings_files_take_a_list(tmp_path: Path) -> None:
    own = tmp_path / "device.toml"
    head = 'name = "pi-1"\nfederation = "home"\ntask = "t"\ndata = "d"\nstate = "s"\n'
    own.write_text(f'{head}profile = "p"\nbroker = ["mqtts://a", "b:8884"]\n')
    assert load_settings(own, DeviceSettings).broker == "mqtts://a,b:8884"
    run = tmp_path / "run.toml"
    head = 'federation = "home"\ntask = "t"\nevaluation = "e"\ndensities = [0.2]\n'
    run.write_text(f'{head}rounds = 1\nbroker = ["mqtts://a", "b"]\n')
    assert load_run(run).broker == "mqtts://a,b"
    run.write_text(f'{head}rounds = 1\nbroker = ["mqtts://a", "mqtt://b"]\n')
    with pytest.raises(SettingsError, match=r"run\.toml: key broker: its addresses 1"):
        load_run(run)


@pytest.mark.parametrize(
    "url", ["mqtt://2001:db8::1", "mqtts://2001:db8::1:8883", "::1", "mqtt://a,::1"]
)
def test_an_ipv6_address_without_brackets_is_said_as_such(url: str) -> None:
    with pytest.raises(
        BrokerError, match=r"without brackets: write mqtts?://\[address"
    ):
        parse_url(url)


# -- SRV records -----------------------------------------------------------------------


class NameServer:
    """A DNS server of SRV records, by UDP."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.fails = False
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, who = self._socket.recvfrom(4096)
                asked = dns.message.from_wire(data)
                name = str(asked.question[0].name)
                self.asked.append(name)
                answer = dns.message.make_response(asked)
                found = self.records.get(name)
                if self.fails:
                    answer.set_rcode(dns.rcode.SERVFAIL)
                elif found is None:
                    answer.set_rcode(dns.rcode.NXDOMAIN)
                else:
                    answer.answer.append(
                        dns.rrset.from_text(name, 1, "IN", "SRV", *found)
                    )
                self._socket.sendto(answer.to_wire(), who)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with contextlib.closing(NameServer()) as server:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        monkeypatch.setattr("edge_sdk.transport.address.records.ANSWER_S", 0.5)
        yield server


def test_records_lead_to_hosts_by_priority(names: NameServer) -> None:
    names.records = {
        "_mqtt._tcp.fleet.example.": ["20 0 1884 c.fleet.example.", "10 5 1883 a.b."],
        "_secure-mqtt._tcp.fleet.example.": ["1 1 443 b.fleet.example."],
        "_mqtts._tcp.fleet.example.": ["1 1 8884 b.fleet.example."],
    }
    assert [one.url for one in reachable(parse_url(URL))] == [
        "mqtt://a.b:1883",
        "mqtt://c.fleet.example:1884",
    ]
    secure = "mqtts+srv://me:secret@fleet.example"
    assert parse_url(secure).url == "mqtts+srv://fleet.example"
    (found,) = reachable(parse_url(secure))
    assert found.url == "mqtts://b.fleet.example:443?alpn=mqtt"
    assert (found.username, found.password) == ("me", "secret")
    (found,) = reachable(parse_url("mqtts+srv://_mqtts._tcp.fleet.example"))
    assert found.url == "mqtts://b.fleet.example:8884"


def test_a_forged_answer_leads_to_no_host_of_anothers_certificate(
    names: NameServer, tmp_path: Path
) -> None:
    names.records = {
        "_secure-mqtt._tcp.fleet.example.": ["1 1 8883 fleet.example.org."]
    }
    url = "mqtts+srv://fleet.example"
    with pytest.raises(ConnectionError, match=r"to fleet\.example\.org, which is not"):
        reachable(parse_url(url))
    (found,) = reachable(parse_url(url, Tls(tmp_path / "own.pem")))
    assert found.host == "fleet.example.org"


def test_records_of_one_priority_come_by_weight() -> None:
    chance = np.random.default_rng(3)
    some = [Record(1, 3, 1, "a"), Record(1, 1, 1, "b"), Record(0, 0, 1, "first")]
    first = Counter[str]()
    for _ in range(4000):
        found = [one.host for one in in_order(some, chance)]
        assert found[0] == "first"
        assert sorted(found[1:]) == ["a", "b"]
        first[found[1]] += 1
    assert 2800 < first["a"] < 3200
    assert in_order([Record(0, 0, 1, "x"), Record(0, 0, 1, "y")], chance)


@pytest.mark.parametrize("url", [f"{URL}:1883", f"{URL},b", "ws+srv://a", "srv://a"])
def test_what_records_do_not_say_is_refused(url: str) -> None:
    with pytest.raises(BrokerError, match=r"takes one name|must begin with"):
        parse_url(url)


def test_no_records_and_no_name_server_are_told_apart(names: NameServer) -> None:
    for ask in (check_broker, lambda there: doctor(there.url), connect):
        names.fails = False
        with pytest.raises(BrokerError, match=r"no SRV records of _mqtt\._tcp\.fleet"):
            ask(parse_url(URL))
        names.fails = True
        with pytest.raises(BrokerError, match="no name server tells the SRV records"):
            ask(parse_url(URL))


def doctor(url: str) -> None:
    found = doctor_broker(DoctorTarget(broker_url=url))
    if found.status != "PASS":
        raise BrokerError(found.detail)


def connect(there: Address) -> None:
    MqttTransport(there, "x1", print, lambda _: None, wait_s=WAIT_S, once=True).close()


def test_a_device_without_dnspython_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_sdk.transport.address.records.find_spec", lambda _name: None
    )
    with pytest.raises(DependencyError, match=r"needs dnspython") as caught:
        parse_url("mqtt+srv://u:secret@fleet.example")
    assert "flash-edge[srv]" in caught.value.help
    assert "secret" not in str(caught.value)


# -- brokers that die ------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("way", ["list", "records"])
def test_the_other_broker_is_taken_when_one_is_killed(
    way: str, names: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back again, with every filter and what was sent meanwhile."""
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.05, 0.2))
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    links: queue.Queue[bool] = queue.Queue()
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(open_kind("mosquitto", f)) for f in folders]
        service = "_mqtt._tcp.fleet.example."
        names.records[service] = [
            f"{10 * place} 1 {one.port} localhost." for place, one in enumerate(both)
        ]
        url = "mqtt://" + ",".join(f"127.0.0.1:{one.port}" for one in both)
        there = parse_url(URL if way == "records" else url)
        transport = stack.enter_context(
            contextlib.closing(
                MqttTransport(there, "x1", got.put, links.put, wait_s=WAIT_S)
            )
        )
        transport.subscribe("t/+")

        def port() -> int:
            with transport._lock:  # what waited arrives before the link is noted
                assert transport._link is not None
                return int(transport._link._client.address.port)

        for mine, other in ((0, 1), (1, 0)):
            assert links.get(timeout=WAIT_S)
            assert port() == both[mine].port
            transport.publish("t/1", b"here")
            assert got.get(timeout=WAIT_S).payload == b"here"
            pid = both[mine].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert not links.get(timeout=WAIT_S)
            transport.publish("t/1", b"meanwhile")
            assert got.get(timeout=WAIT_S).payload == b"meanwhile"
            assert port() == both[other].port
            both[mine].restart()
    assert way == "list" or len(names.asked) > 2
