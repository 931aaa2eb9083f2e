"""A real mosquitto with access control: who gets in, writes what, is cut off."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from patience import patience, waited

from coordinator.broker import watch as broker_watch
from coordinator.broker.check import check_broker
from coordinator.broker.config import access_list
from coordinator.broker.start import open_broker
from coordinator.identity.broker_access import (
    BrokerAccess,
    identities_for,
    open_broker_access,
)
from coordinator.identity.muted import Muted
from coordinator.identity.registry import IdentityRegistry
from coordinator.identity.revocation import RevocationWatcher, access_control_of
from coordinator.processes.child_log import keep_small
from coordinator.server.broker_cleanup import Wiping
from coordinator.settings import RunSettings
from edge_sdk.access import access_of
from edge_sdk.errors import BrokerError, IdentityError, SettingsError
from edge_sdk.identity.enroll import enroll, settings_text
from edge_sdk.identity.token import read_token
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.transport.address import Address, Tls
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire import topics

pytestmark = pytest.mark.broker
WAIT_S = patience(20.0)


def settings(folder: Path, **changes: Any) -> RunSettings:
    return RunSettings(
        federation="home",
        task="digits",
        evaluation=folder,
        densities=[0.1],
        rounds=1,
        **changes,
    )


class Client:
    """A transport and what it got."""

    def __init__(self, address: Address, name: str) -> None:
        self.got: queue.Queue[ReceivedMessage] = queue.Queue()
        self.links: queue.Queue[bool] = queue.Queue()
        self.transport = MqttTransport(
            address, name, self.got.put, self.links.put, wait_s=WAIT_S
        )
        assert self.links.get(timeout=WAIT_S)


class Site:
    """A gate with devices `pi-1` and `pi-2` enrolled through its own listener."""

    def __init__(
        self, folder: Path, gate: BrokerAccess, identities: IdentityRegistry, port: int
    ) -> None:
        self.folder, self.gate, self.identities = folder, gate, identities
        self.clients: list[Client] = []
        self.addresses: dict[str, Address] = {}
        for name in ("pi-1", "pi-2"):
            text = identities.token(name, "127.0.0.1", port, hours=1)
            own = folder / name
            answer = enroll(read_token(text), own / "identity")
            (own / "device.toml").write_text(
                settings_text(
                    answer, identity="identity", data="d", state="s", profile="p"
                )
            )
            found = load_settings(own / "device.toml", DeviceSettings)
            self.addresses[name], _ = access_of(found)

    def connect(self, address: Address, name: str) -> Client:
        self.clients.append(Client(address, name))
        return self.clients[-1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    run = settings(tmp_path)
    identities = IdentityRegistry(tmp_path / "run", "home")
    assert identities_for(tmp_path / "run", run) is not None  # it exists, so it counts
    with open_broker_access(tmp_path / "run", run, identities) as gate:
        port = identities.port(0, lambda: 0)
        made = Site(tmp_path, gate, identities, port)
        yield made
        for client in made.clients:
            client.transport.close()


def heard(coordinator: Client, until: bytes) -> list[tuple[str, bytes]]:
    """What arrived up to a mark that was sent last."""
    got: list[tuple[str, bytes]] = []
    while not got or got[-1][1] != until:
        delivery = coordinator.got.get(timeout=WAIT_S)
        got.append((delivery.topic, delivery.payload))
    return got


def test_a_device_writes_its_own_topics_and_nobody_elses(site: Site) -> None:
    coordinator = site.connect(site.gate.address, "whatever")
    for pattern in ("d/+/up/+/ctl", "d/+/up/+/dat", "d/+/st", "d/+/in", "c/#", "m/#"):
        coordinator.transport.subscribe(f"fl/1/home/{pattern}")
    coordinator.transport.publish(topics.inbox("home", "pi-1"), b"ready")
    heard(coordinator, b"ready")
    device = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id="pi-2",  # what it asks for is not what it gets
        protocol=MQTTProtocolVersion.MQTTv311,
    )
    address = site.addresses["pi-1"]
    assert address.tls is not None
    device.tls_set_context(address.tls.context())
    # A refused message is answered by hanging up, nine times here; paho comes back and
    # says the rest, with its own delays after 14 to 20 s.
    device.reconnect_delay_set(0.05, 0.1)
    device.connect(address.host, address.port)
    device.loop_start()
    chunk = topics.chunk("home", "ab" * 32, 0)
    for topic in (
        topics.upload("home", "pi-2", 0, data=False),
        topics.upload("home", "pi-2", 0, data=True),
        topics.status("home", "pi-2"),
        topics.inbox("home", "pi-1"),
        topics.inbox("home", "pi-2"),
        topics.announcement("home"),
        topics.next_key("home", 1),
        chunk,
        topics.upload("other", "pi-1", 0, data=False),
        topics.upload("home", "pi-1", 1, data=False),  # three topics and no other
        topics.status("home", "pi-1") + "/more",
    ):
        device.publish(topic, b"forged", qos=1)
    own = [
        topics.upload("home", "pi-1", 0, data=False),
        topics.upload("home", "pi-1", 0, data=True),
        topics.status("home", "pi-1"),
    ]
    for topic in own:
        device.publish(topic, b"mine", qos=1)
    device.publish(own[0], b"end", qos=1)
    got = heard(coordinator, b"end")
    device.disconnect()
    device.loop_stop()
    assert sorted(got) == sorted(
        [*((topic, b"mine") for topic in own), (own[0], b"end")]
    )


def test_a_device_reads_its_inbox_and_what_is_for_all(site: Site) -> None:
    coordinator = site.connect(site.gate.address, "c")
    device = site.connect(site.addresses["pi-1"], "d")
    for pattern in ("#", "fl/1/home/d/+/in", "fl/1/home/c/ann", "fl/1/home/m/+/+"):
        device.transport.subscribe(pattern)

    def subscribed() -> bool:
        coordinator.transport.publish(topics.inbox("home", "pi-1"), b"ready")
        return not device.got.empty()

    assert waited(subscribed, 20, look_s=0.05)
    allowed = [
        topics.announcement("home"),
        topics.next_key("home", 1),
        topics.chunk("home", "ab" * 32, 0),
        topics.inbox("home", "pi-1"),
    ]
    for topic in (
        topics.inbox("home", "pi-2"),
        topics.upload("home", "pi-2", 0, data=True),
        topics.status("home", "pi-2"),
        *allowed,
    ):
        coordinator.transport.publish(topic, b"x")
    coordinator.transport.publish(topics.inbox("home", "pi-1"), b"end")
    got = {topic for topic, _ in heard(device, b"end")}
    assert got <= set(allowed)
    assert topics.inbox("home", "pi-1") in got


def test_who_has_no_certificate_of_the_federation_is_not_let_in(
    site: Site, tmp_path: Path
) -> None:
    host, port = site.gate.broker.host, site.gate.broker.port
    authority = tmp_path / "run" / "broker" / "authority.pem"
    other = IdentityRegistry(tmp_path / "other", "home")
    (tmp_path / "foreign.pem").write_bytes(other.services.client_pem("pi-1"))
    for tls in (None, Tls(authority), Tls(authority, tmp_path / "foreign.pem")):
        with pytest.raises(BrokerError):
            check_broker(Address(host, port, tls=tls), timeout_s=patience(3))
    impostor = tmp_path / "impostor.pem"
    impostor.write_bytes(other.services.authority_pem())
    with pytest.raises(BrokerError, match="an authority that is not known here"):
        check_broker(Address(host, port, tls=Tls(impostor)), timeout_s=patience(3))
    check_broker(site.addresses["pi-1"])


def test_a_revoked_device_is_cut_off_and_not_let_in_again(site: Site) -> None:
    gate, identities = site.gate, site.identities
    said: list[str] = []
    device = site.connect(site.addresses["pi-1"], "pi-1")
    other = site.connect(site.addresses["pi-2"], "pi-2")
    with RevocationWatcher(
        identities,
        gate.broker,
        gate.access_control,
        gate.takeover,
        revoked=said.append,
        rotated=lambda: None,
    ):
        identities.revoke(
            "pi-1", "stolen"
        )  # as the command does it, beside this thread
        assert device.links.get(timeout=WAIT_S) is False
    assert said == ["pi-1"]
    with pytest.raises(BrokerError):
        check_broker(site.addresses["pi-1"])
    assert other.links.empty()
    check_broker(site.addresses["pi-2"])


def test_a_session_from_before_its_revocation_opens_nothing(site: Site) -> None:
    """TLS would let a client come back without showing its certificate."""
    address = site.addresses["pi-1"]
    assert address.tls is not None
    context = address.tls.context()

    def connect(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        connect_packet = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x0a\x00\x04evil"
        with (
            socket.create_connection(
                (address.host, address.port), timeout=patience(5)
            ) as raw,
            context.wrap_socket(
                raw, server_hostname=address.host, session=session
            ) as link,
        ):
            link.sendall(connect_packet)
            return link.recv(4), link.session

    def opened(session: ssl.SSLSession | None) -> bytes:
        try:
            return connect(session)[0]
        except OSError:
            return b""

    answer, session = connect(None)
    assert answer[:1] == b"\x20"
    site.identities.revoke("pi-1", "stolen")
    assert site.gate.access_control is not None
    site.identities.refresh()
    site.gate.broker.put_access_control(site.gate.access_control(()))
    waited(lambda: not opened(None), 10, look_s=0.05)  # the broker reads its new list
    assert opened(None) == opened(session) == b""


def test_the_key_of_the_broker_is_read_by_it_alone(site: Site, tmp_path: Path) -> None:
    for name in ("broker.server", "coordinator.pem", "check.pem"):
        mode = (tmp_path / "run" / "broker" / name).stat().st_mode
        assert mode & 0o077 == 0, name


def test_a_revoked_name_loses_its_rights_on_a_link_that_is_open() -> None:
    text = access_list("home", ["pi-2", "pi-1"])
    assert text.index("user pi-1\ntopic deny #") < text.index("user pi-2")
    assert "deny" not in access_list("home")


def test_the_embedded_broker_does_not_pretend_to_have_walls(tmp_path: Path) -> None:
    identities = IdentityRegistry(tmp_path, "home")
    access_control = access_control_of(
        identities, identities.services.server_pem("127.0.0.1")
    )
    with pytest.raises(BrokerError, match="has to be mosquitto") as caught:
        open_broker(
            None, tmp_path / "broker", kind="embedded", access_control=access_control
        )
    assert "insecure = true" in caught.value.help


# -- plain MQTT, refused where others can listen ---


def other_client(site: Site, name: str, *, clean: bool) -> tuple[paho.Client, bool]:
    """A client of another make under a device's name; whether a session was kept."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=MQTTProtocolVersion.MQTTv311,
        clean_session=clean,
    )
    tls = site.addresses[name].tls
    assert tls is not None
    client.tls_set_context(tls.context())
    answers: queue.Queue[bool] = queue.Queue()
    client.on_connect = lambda _c, _d, flags, _r, _p: answers.put(flags.session_present)
    client.reconnect_delay_set(60, 60)
    client.connect(site.addresses[name].host, site.addresses[name].port)
    client.loop_start()
    return client, answers.get(timeout=WAIT_S)


def retained(site: Site, pattern: str) -> list[str]:
    """Topics that the broker keeps something on."""
    reader = site.connect(site.gate.address, "reader")
    mark = topics.announcement("home")
    reader.transport.subscribe(pattern)  # what is retained comes before what is new
    reader.transport.subscribe(mark)
    reader.transport.publish(mark, b"mark")
    found = [topic for topic, _ in heard(reader, b"mark")[:-1]]
    reader.transport.close()
    return sorted(found)


def test_what_a_revoked_device_left_at_the_broker_is_wiped(site: Site) -> None:
    stolen, kept = other_client(site, "pi-2", clean=False)
    assert not kept
    own = [
        topics.upload("home", "pi-2", 0, data=False),
        topics.upload("home", "pi-2", 0, data=True),
        topics.status("home", "pi-2"),
    ]
    for topic in own:
        said = stolen.publish(topic, bytes(60_000), qos=1, retain=True)
        said.wait_for_publish(WAIT_S)
    stolen.disconnect()
    stolen.loop_stop()
    stolen, kept = other_client(site, "pi-2", clean=False)
    stolen.disconnect()
    stolen.loop_stop()
    assert kept
    assert retained(site, "fl/1/home/d/#") == sorted(own)

    now = [0.0]
    seen: queue.Queue[ReceivedMessage] = queue.Queue()
    coordinator = MqttTransport(
        site.gate.address, "coordinator", seen.put, lambda _: None, wait_s=WAIT_S
    )
    wiping = Wiping("home", coordinator, lambda: now[0])
    wiping.begin("pi-2")
    while not wiping._work["pi-2"].cleared >= {*own}:  # echoes come in between
        one = seen.get(timeout=WAIT_S)
        wiping.saw(one.topic, one.payload)
    # What it wrote between the first look and its end is found by the second.
    stolen, _ = other_client(site, "pi-2", clean=False)
    stolen.publish(own[2], b"again", qos=1, retain=True).wait_for_publish(WAIT_S)
    stolen.disconnect()
    stolen.loop_stop()
    site.identities.revoke("pi-2", "it was stolen")
    assert site.gate.access_control is not None
    site.gate.broker.put_access_control(site.gate.access_control(()))
    assert site.gate.takeover is not None
    check_broker(site.gate.takeover("pi-2"))  # as the guard cuts its link, and session
    now[0] = 6.0
    wiping.tick()
    while own[2] not in wiping._work["pi-2"].cleared:
        one = seen.get(timeout=WAIT_S)
        wiping.saw(one.topic, one.payload)
    now[0] = 61.0
    wiping.tick()
    coordinator.close()
    assert retained(site, "fl/1/home/d/#") == []


def test_who_floods_is_refused_by_the_broker_for_a_while_and_comes_back(
    site: Site,
) -> None:
    now = [0.0]
    muted = Muted(lambda: now[0])
    coordinator = site.connect(site.gate.address, "coordinator")
    coordinator.transport.subscribe("fl/1/home/d/+/st")
    guard = RevocationWatcher(
        site.identities,
        site.gate.broker,
        site.gate.access_control,
        site.gate.takeover,
        revoked=lambda _: None,
        rotated=lambda: None,
        muted=muted,
    )
    loud = site.connect(site.addresses["pi-1"], "pi-1")
    quiet = site.connect(site.addresses["pi-2"], "pi-2")
    with guard:
        muted.mute("pi-1")
        assert loud.links.get(timeout=WAIT_S) is False  # its link is cut, once
        assert loud.links.get(timeout=WAIT_S) is True
        loud.transport.publish(topics.status("home", "pi-1"), b"flood")
        quiet.transport.publish(topics.status("home", "pi-2"), b"mark")
        said = heard(coordinator, b"mark")
        assert (topics.status("home", "pi-1"), b"flood") not in said
        now[0] = 61.0

        def is_heard() -> bool:
            loud.transport.publish(topics.status("home", "pi-1"), b"well")
            return not coordinator.got.empty()

        assert waited(is_heard, 20, look_s=0.1)
        heard(coordinator, b"well")
    assert site.identities.refused() == set()


def test_a_strangers_knocks_do_not_fill_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 3000
    monkeypatch.setattr(keep_small, "__defaults__", (most,))
    monkeypatch.setattr(broker_watch, "WATCH_S", 0.02)
    folder = site.folder / "run" / "broker"
    log, aside = (folder / f"mosquitto.log{end}" for end in ("", ".1"))
    broker, own = site.gate.broker, site.addresses["pi-1"].tls
    assert own is not None
    nameless = Address(broker.host, broker.port, tls=Tls(own.authority))
    with broker_watch.watched(broker):
        for _ in range(60):
            with contextlib.suppress(BrokerError):
                check_broker(nameless)
        waited(lambda: log.stat().st_size <= most, 20)
    assert log.stat().st_size <= most
    written = log.read_bytes() + aside.read_bytes()
    assert b"OpenSSL Error" in written
    assert b"\x00" not in written
    assert broker.alive()


def test_a_packet_of_another_size_than_ours_is_refused_by_the_broker(
    site: Site,
) -> None:
    big, _ = other_client(site, "pi-1", clean=True)
    gone: queue.Queue[object] = queue.Queue()
    big.on_disconnect = lambda *_: gone.put(None)
    big.publish(topics.status("home", "pi-1"), bytes(300_000), qos=1, retain=True)
    gone.get(timeout=WAIT_S)
    big.disconnect()
    big.loop_stop()
    assert retained(site, "fl/1/home/d/#") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "192.168.1.10", "insecure": True},
        {"address": "0.0.0.0", "insecure": True},  # noqa: S104 - that is the point
        {"broker": "mqtt://192.168.1.10", "insecure": True},
        {"broker": "mqtts://broker.example", "insecure": True},
        {"broker": "mqtt://192.168.1.10"},
    ],
    ids=str,
)
def test_a_run_in_the_clear_on_a_network_is_refused_with_the_remedy(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(IdentityError) as caught:
        identities_for(tmp_path, settings(tmp_path, **changes))
    assert "enroll" in caught.value.help or "mqtts://" in caught.value.help


def test_one_machine_may_be_plain_and_a_network_is_guarded(tmp_path: Path) -> None:
    assert identities_for(tmp_path, settings(tmp_path)) is None
    assert identities_for(tmp_path, settings(tmp_path, insecure=True)) is None
    assert identities_for(tmp_path, settings(tmp_path, address="10.0.0.7")) is not None
    assert identities_for(tmp_path, settings(tmp_path)) is not None  # somebody enrolled


DEVICE = """
name = "{name}"
federation = "home"
broker = "{broker}"
task = "digits"
data = "d"
state = "s"
profile = "p"
{identity}
"""


def test_a_device_without_an_identity_speaks_to_this_machine_only(
    tmp_path: Path, site: Site
) -> None:
    def access(**values: str) -> Address:
        path = site.folder / "pi-1" / "other.toml"
        base = {"name": "pi-1", "broker": "mqtt://127.0.0.1", "identity": ""}
        path.write_text(DEVICE.format_map(base | values))
        return access_of(load_settings(path, DeviceSettings))[0]

    mine = 'identity = "identity"'
    assert access().tls is None
    assert access(broker="mqtts://10.0.0.7", identity=mine).tls is not None
    with pytest.raises(IdentityError, match="not enrolled"):
        access(broker="mqtt://10.0.0.7")
    with pytest.raises(IdentityError, match="without encryption"):
        access(broker="mqtt://10.0.0.7", identity=mine)
    with pytest.raises(SettingsError, match="is the identity of pi-1 in home"):
        access(name="pi-9", identity=mine)
    with pytest.raises(IdentityError, match="no device is enrolled"):
        access(identity='identity = "nowhere"')
