"""Brokers of MQTT 5 that name another server: followed over TLS, and else named."""

from __future__ import annotations

import contextlib
import queue
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import mosquitto
from patience import patience
from walls import Answering, SecureFront

from coordinator.identity.registry import IdentityRegistry
from edge_sdk.transport.address import MOVED, Address, Tls, parse_url, sent_on
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.open_link import SENT_ON, open_link

WAIT_S = patience(20.0)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An authority, a certificate of it, and one that another authority has made."""
    folder = tmp_path_factory.mktemp("pki")
    services = IdentityRegistry(folder / "own", "own").services
    authority, own, foreign = (folder / n for n in ("ca.pem", "own.pem", "foreign.pem"))
    authority.write_bytes(services.authority_pem())
    own.write_bytes(services.server_pem("127.0.0.1"))
    services = IdentityRegistry(folder / "other", "other").services
    foreign.write_bytes(services.server_pem("127.0.0.1"))
    return authority, own, foreign


def sends_to(*servers: str, reason: int = 0x9C) -> Answering:
    """A broker that lets nobody in and names others."""
    named = " ".join(servers).encode()
    told = b"\x1c" + len(named).to_bytes(2, "big") + named
    return Answering(bytes([0x20, 3 + len(told), 0, reason, len(told)]) + told)


@pytest.mark.broker
@pytest.mark.parametrize("reason", [0x9C, 0x9D])
def test_a_broker_that_names_another_is_followed_over_tls(
    reason: int,
    pki: tuple[Path, Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Twice here: to a second one that names a third."""
    caplog.set_level("INFO")
    authority, own, _ = pki
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        broker = enter(mosquitto(tmp_path, "allow_anonymous true"))
        third = enter(SecureFront(broker.port, own))
        says = enter(sends_to(f"127.0.0.1:{third.port}", "other.example:1"))
        second = enter(SecureFront(says.port, own))
        says = enter(sends_to(f"127.0.0.1:{second.port}", reason=reason))
        first = enter(SecureFront(says.port, own))
        url = f"mqtts://user:secret@127.0.0.1:{first.port}"
        given = parse_url(url, Tls(authority)), "x1", got.put, lambda _: None
        transport = MqttTransport(*given, wait_s=WAIT_S, once=True)
        with contextlib.closing(transport):
            transport.subscribe("t/1")
            transport.publish("t/1", b"here")
            assert got.get(timeout=WAIT_S).payload == b"here"
        assert len(third.asked) == 1
    told = [r for r in caplog.records if "sends us to" in r.getMessage()]
    levels = ["WARNING" if reason == 0x9D else "INFO", "INFO"]
    assert [r.levelname for r in told] == levels
    assert (
        told[0]
        .getMessage()
        .startswith(
            f"the broker at mqtts://127.0.0.1:{first.port} sends us to "
            f"mqtts://127.0.0.1:{second.port}: "
        )
    )
    assert "secret" not in caplog.text


def test_another_broker_is_not_followed_without_a_certificate_that_is_believed(
    pki: tuple[Path, Path, Path],
) -> None:
    """Nor from a plain link, nor round and round."""
    authority, own, foreign = pki
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        other = enter(SecureFront(enter(Answering(b"")).port, foreign))

        def refused(port: int, tls: Tls | None) -> str:
            there = Address("127.0.0.1", port, tls=tls)
            with pytest.raises(ConnectionError) as caught:
                open_link(there, "x1", print, will=None, window=None, meter=Meter())
            return str(caught.value)

        tls, named = Tls(authority), f"127.0.0.1:{other.port}"
        says = enter(sends_to(named))
        front = enter(SecureFront(says.port, own))
        assert "of an authority that is not known here" in refused(front.port, tls)
        assert f"it names {named}" in refused(says.port, None)
        ring = enter(SecureFront(0, own))
        ring._to = enter(sends_to(f"127.0.0.1:{ring.port}")).port
        assert f"it names 127.0.0.1:{ring.port}" in refused(ring.port, tls)
        assert len(ring.asked) == 1 + SENT_ON


@pytest.mark.parametrize(
    "server",
    [
        *("", " ", "b.example:0", "b.example:70000", "b.example:x", "u@b.example"),
        *(
            "u:p@b.example",
            "b.example/path",
            "b.example?x",
            "b.example#x",
            "2001:db8::1",
        ),
        *("mqtts://b.example", "[b.example", "b\x1b.example", "b\u00fc.example", ":1"),
    ],
)
def test_what_is_no_server_is_not_followed(server: str) -> None:
    assert sent_on(Address("a.example", 8883, tls=Tls()), MOVED, server) is None


def test_another_server_keeps_all_of_an_address_but_its_host() -> None:
    first = parse_url("mqtts://u:p@a.example:8884,c.example", Tls()).each()[0]
    for server, host, port in [
        ("b.example", "b.example", 8884),
        ("B.example:443 c.example", "b.example", 443),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
    ]:
        assert sent_on(first, MOVED, server) == replace(first, host=host, port=port)
    assert sent_on(first, 0x87, "b.example") is None
