"""Ways through walls: WebSocket, ALPN, proxies, several addresses; and their errors."""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import mosquitto
from limiting import LimitingBroker
from patience import patience
from ports import free_port
from walls import HttpProxy, Listener, SecureFront, SocksProxy
from whole_run import pack_wide, run_through

from coordinator.broker.check import check_broker
from coordinator.identity.broker_access import identities_for, open_broker_access
from coordinator.identity.registry import IdentityRegistry
from coordinator.settings import RunSettings
from edge_sdk.device.doctor import DoctorTarget
from edge_sdk.device.doctor.link import tls
from edge_sdk.errors import BrokerError, SettingsError
from edge_sdk.kernels.build import find_compiler, this_machine
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.terminal import redacted
from edge_sdk.transport.address import Address, Tls, parse_url
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.configured import broker_address
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.proxy import Proxy, parse_proxy, proxy_from
from edge_sdk.transport.refusals import in_tls_words

WAIT_S = patience(20.0)
NAME = "broker.example"  # known to nobody but the proxy
LOGIN = "nurse:pa:ss%word"
PATH = "/mqtt"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("broker")
    with mosquitto(folder, "allow_anonymous true") as there:
        yield there


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """An authority of the user's own, and certificates of two names."""
    folder = tmp_path_factory.mktemp("pki")
    registry = IdentityRegistry(folder, "own")
    authority = folder / "ca.pem"
    authority.write_bytes(registry.services.authority_pem())
    found = {}
    for name in (NAME, "127.0.0.1"):
        found[name] = folder / f"{name}.pem"
        found[name].write_bytes(registry.services.server_pem(name))
    return authority, found


def echo(there: Address) -> int:
    """Bytes of each of eight chunks that come back, in order."""
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    with contextlib.closing(
        MqttTransport(there, "x1", got.put, lambda _: None, wait_s=WAIT_S, once=True)
    ) as transport:
        transport.subscribe("t/+")
        chunks = [bytes([place]) * 65_536 for place in range(8)]
        for chunk in chunks:
            transport.publish("t/1", chunk)
        assert [got.get(timeout=WAIT_S).payload for _ in chunks] == chunks
        assert transport.traffic().sent > 8 * 65_536
        return len(chunks[0])


def only_443(port: int) -> Callable[[str, int], int | None]:
    return lambda host, asked: port if (host, asked) == (NAME, 443) else None


def login_of(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    return user, password


@pytest.mark.broker
@pytest.mark.parametrize("secure", [False, True])
def test_mqtt_is_spoken_over_a_websocket(
    secure: bool, broker: Address, pki: tuple[Path, dict[str, Path]]
) -> None:
    authority, certificates = pki
    certificate = certificates["127.0.0.1"] if secure else None
    with SecureFront(broker.port, certificate, path="/a/mqtt") as front:
        scheme = "wss" if secure else "ws"
        url = f"{scheme}://127.0.0.1:{front.port}/a/mqtt"
        there = parse_url(url, Tls(authority))
        assert echo(there) == 65_536
        check_broker(there)
        assert "pong are you there" in front.asked
        wrong = parse_url(url.replace("/a/", "/b/"), Tls(authority))
        for ask in (echo, check_broker):
            with pytest.raises(BrokerError, match=r"no MQTT over WebSocket at /b/mqtt"):
                ask(wrong)


@pytest.mark.broker
def test_a_devices_doctor_tries_the_path_and_each_address(
    broker: Address, pki: tuple[Path, dict[str, Path]]
) -> None:
    authority, certificates = pki
    down = free_port()
    with SecureFront(broker.port, certificates["127.0.0.1"], path=PATH) as front:
        for path, status in ((PATH, "PASS"), ("/b", "problem")):
            url = f"wss://127.0.0.1:{down},127.0.0.1:{front.port}{path}"
            found = tls(DoctorTarget(broker_url=url, tls=Tls(authority)))
            assert found.status == status, found
        assert "no MQTT over WebSocket at /b" in found.detail


@pytest.mark.broker
def test_mqtt_names_itself_beside_https(
    broker: Address, pki: tuple[Path, dict[str, Path]]
) -> None:
    authority, certificates = pki
    certificate = certificates["127.0.0.1"]
    with SecureFront(broker.port, certificate, alpn=("http/1.1", "mqtt")) as front:
        url = f"mqtts://127.0.0.1:{front.port}"
        there = parse_url(f"{url}?alpn=mqtt", Tls(authority))
        assert echo(there) == 65_536
        check_broker(there)
        assert set(front.asked) == {"alpn mqtt"}
        with pytest.raises(BrokerError, match=r"named in the handshake \(\?alpn=mqtt"):
            echo(parse_url(url, Tls(authority)))
        with pytest.raises(BrokerError, match=r"another protocol .* than http"):
            echo(parse_url(f"{url}?alpn=http", Tls(authority)))


def test_a_refused_protocol_of_the_handshake_is_said_as_such() -> None:
    """As OpenSSL's server does; Python's own accepts any."""
    said = "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)"
    assert "?alpn=NAME" in in_tls_words(said)


@pytest.mark.broker
def test_a_run_on_this_machine_believes_the_users_authority(
    broker: Address, pki: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    authority, certificates = pki
    with SecureFront(broker.port, certificates["127.0.0.1"]) as front:
        settings = RunSettings(
            federation="own",
            task="digits",
            evaluation=tmp_path,
            densities=[0.2],
            rounds=1,
            broker=f"mqtts://127.0.0.1:{front.port}",
            broker_ca=authority,
        )
        assert identities_for(tmp_path, settings) is None
        with open_broker_access(tmp_path, settings, None) as access:
            assert echo(access.address) == 65_536


class Older(Listener):
    """Hangs up at a CONNECT of MQTT 5; takes one of 3.1.1."""

    def serve(self, link: socket.socket) -> None:
        if link.recv(4096)[8] == 4:
            link.sendall(b"\x20\x02\x00\x00")
            while link.recv(4096):
                pass


def test_an_older_broker_is_asked_again_no_sooner_than_its_limit_allows() -> None:
    limits = BrokerLimits(connects_per_s=1)
    with Older() as old, LimitingBroker(old.port, limits) as proxy:
        there = Address("127.0.0.1", proxy.port, limits=limits)
        MqttTransport(there, "x1", print, lambda _: None, wait_s=WAIT_S).close()
        assert not proxy.breaches
        assert proxy.packets >= 2


@pytest.mark.broker
def test_a_process_that_takes_anothers_place_connects_no_sooner_than_a_limit_allows(
    broker: Address,
) -> None:
    """It may have been killed: the next one does not know when it connected."""
    limits = BrokerLimits(connects_per_s=2)
    with LimitingBroker(broker.port, limits) as proxy:
        there = Address("127.0.0.1", proxy.port, limits=limits)
        for _ in range(3):
            MqttTransport(there, "x1", print, lambda _: None, wait_s=WAIT_S).close()
        assert not proxy.breaches


@pytest.mark.broker
@pytest.mark.parametrize("login", ["", LOGIN])
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_leads_to_the_broker(kind: str, login: str, broker: Address) -> None:
    make = HttpProxy if kind == "http" else SocksProxy
    with make(only_443(broker.port), login) as wall:
        user, password = login_of(login) if login else (None, None)
        proxy = Proxy(kind, "127.0.0.1", wall.port, user, password)  # type: ignore[arg-type]
        there = Address(NAME, 443, proxy=proxy)
        assert echo(there) == 65_536
        check_broker(there)
        assert all(f"{NAME}:443" in line for line in wall.asked)
        v6 = Address("2001:db8::7", 443, proxy=proxy)
        with pytest.raises(BrokerError, match=r"no connection to \[2001:db8::7\]"):
            echo(v6)
        assert wall.asked[-1].endswith(("[2001:db8::7]:443", "4 2001:db8::7:443"))


@pytest.mark.broker
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_asks_for_a_password_is_said_as_such(
    kind: str, broker: Address
) -> None:
    make = HttpProxy if kind == "http" else SocksProxy
    with make(only_443(broker.port), LOGIN) as wall:
        for user, password, said in (
            (None, None, "asks for a user and a password: write them into the key pr"),
            ("nurse", "hunter22", "refuses the user or the password"),
        ):
            proxy = Proxy(kind, "127.0.0.1", wall.port, user, password)  # type: ignore[arg-type]
            for ask in (echo, check_broker):
                with pytest.raises(BrokerError, match=said) as caught:
                    ask(Address(NAME, 443, proxy=proxy))
                assert "hunter22" not in str(caught.value) + caught.value.help
        proxy = Proxy(kind, "127.0.0.1", wall.port, *login_of(LOGIN))  # type: ignore[arg-type]
        with pytest.raises(BrokerError, match=f"makes no connection to {NAME}:8883"):
            echo(Address(NAME, 8883, proxy=proxy))


@pytest.mark.broker
def test_a_proxy_that_is_none_or_away_is_named(broker: Address) -> None:
    for kind in ("http", "socks5"):
        with SecureFront(broker.port, path=PATH) as web:  # answers, but not as a proxy
            proxy = Proxy(kind, "127.0.0.1", web.port)  # type: ignore[arg-type]
            with pytest.raises(BrokerError, match=f"{kind}://127.0.0.1:{web.port}"):
                echo(Address(NAME, 443, proxy=proxy))
        gone = Proxy(kind, "127.0.0.1", web.port)  # type: ignore[arg-type]
        with pytest.raises(BrokerError, match=f"{kind}://127.0.0.1:{web.port} can"):
            echo(Address(NAME, 443, proxy=gone))


@pytest.mark.broker
def test_certificates_that_are_not_believed_say_why(
    broker: Address, pki: tuple[Path, dict[str, Path]]
) -> None:
    authority, certificates = pki
    with (
        SecureFront(broker.port, certificates[NAME]) as front,
        HttpProxy(lambda *_: front.port) as wall,
    ):
        proxy = Proxy("http", "127.0.0.1", wall.port)
        own = Tls(authority)
        assert echo(Address(NAME, 443, tls=own, proxy=proxy)) == 65_536
        for ask in (echo, check_broker):
            with pytest.raises(BrokerError, match="certificate is for another name"):
                ask(Address("other.example", 443, tls=own, proxy=proxy))
            with pytest.raises(BrokerError, match="authority that is not known here"):
                ask(Address(NAME, 443, tls=Tls(), proxy=proxy))  # the system's


@pytest.mark.broker
def test_the_next_address_is_taken_where_one_is_down(
    broker: Address, tmp_path: Path
) -> None:
    down = free_port()
    both = parse_url(f"mqtt://127.0.0.1:{down},127.0.0.1:{broker.port}")
    assert echo(both) == 65_536
    check_broker(both)
    with pytest.raises(BrokerError, match=f"no MQTT broker .*127.0.0.1:{down}"):
        echo(parse_url(f"mqtt://127.0.0.1:{down},127.0.0.1:{down}"))


@pytest.mark.broker
def test_a_literal_address_of_ipv6_is_reached(broker: Address) -> None:
    try:
        front = SecureFront(broker.port, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with front:
        assert echo(parse_url(f"mqtt://[::1]:{front.port}")) == 65_536


@pytest.mark.broker
def test_a_run_and_a_delivery_pass_a_proxy_that_only_speaks_connect_to_443(
    broker: Address, pki: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    authority, certificates = pki
    with (
        SecureFront(broker.port, certificates[NAME], alpn=("mqtt",)) as front,
        HttpProxy(only_443(front.port), LOGIN) as wall,
    ):
        settings = tmp_path / "device.toml"
        secret = tmp_path / "secret"
        secret.write_text("in a file\n")
        settings.write_text(
            f'name = "pi-1"\nfederation = "home"\nbroker = "mqtts://{NAME}:443"\n'
            f'broker_ca = "{authority}"\ntask = "t"\ndata = "d"\nstate = "s"\n'
            'profile = "pi-4b"\nbroker_user = "me"\nbroker_password_file = "secret"\n'
        )
        own = load_settings(settings, DeviceSettings)
        proxy = f"http://nurse:pa:ss%25word@127.0.0.1:{wall.port}"
        there = broker_address(own, Tls(authority), {"FLASH_EDGE_PROXY": proxy})
        packed = None
        if find_compiler(this_machine()) is not None:
            packed = pack_wide(tmp_path / "wide")
        # Live on both devices at the end.
        given = {"coordinator": broker, "rounds": 1, "packed": packed}
        found = run_through(there, tmp_path, **given)  # type: ignore[arg-type]
    assert found["updates"] == {"1": 2}
    assert set(wall.asked) == {f"CONNECT {NAME}:443"}
    assert set(front.asked) == {"alpn mqtt"}


# -- secrets and environment -----------------------------------------------------------


class Keys:
    """Keys of a settings file."""

    broker, broker_profile, broker_user, proxy = "mqtts://h.example", "", "", ""
    broker_password_file: Path | None = None


def test_secrets_come_from_files_and_the_environment_and_are_never_shown(
    tmp_path: Path,
) -> None:
    keys, file = Keys(), tmp_path / "password"
    file.write_text("from a file\n")
    by_file = {
        "FLASH_EDGE_BROKER_USER": "u",
        "FLASH_EDGE_BROKER_PASSWORD_FILE": str(file),
    }
    found = broker_address(keys, environment=by_file)
    assert (found.username, found.password) == ("u", "from a file")
    by_value = {
        "FLASH_EDGE_BROKER_USER": "u",
        "FLASH_EDGE_BROKER_PASSWORD": "swordfish9",
    }
    found = broker_address(keys, environment=by_value)
    assert (found.username, found.password) == ("u", "swordfish9")
    assert redacted("login swordfish9") == "login ***"
    keys.broker_user, keys.broker_password_file = "mine", file
    found = broker_address(keys, environment=by_value)
    assert (found.username, found.password) == ("mine", "from a file")
    keys.broker = "mqtts://url:inurl@h.example"
    found = broker_address(keys, environment=by_value)
    assert (found.username, found.password) == ("url", "inurl")
    keys.proxy = "http://me:behindthewall@p.example:3128"
    shown = repr(broker_address(keys, environment={}))
    assert "behindthewall" not in shown + redacted("behindthewall")
    assert "behindthewall" not in repr(broker_address(keys, environment={}).proxy)


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    keys = Keys()
    keys.broker_user, keys.broker_password_file = "u", tmp_path / "none"
    with pytest.raises(SettingsError, match=r"cannot be read from .*none"):
        broker_address(keys, environment={})
    keys.broker_password_file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="it is no text"):
        broker_address(keys, environment={})


@pytest.mark.parametrize(
    ("environment", "host", "expected"),
    [
        ({}, "b.example", None),
        ({"https_proxy": "http://p:1"}, "b.example", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "b.example", "http://p:1"),
        ({"ALL_PROXY": "socks5h://p"}, "b.example", "socks5://p:1080"),
        ({"https_proxy": "http://p:1", "no_proxy": ".example"}, "b.example", None),
        ({"https_proxy": "http://p:1", "NO_PROXY": "*"}, "b.example", None),
        ({"https_proxy": "http://p:1"}, "192.168.1.9", None),
        ({"https_proxy": "http://p:1"}, "127.0.0.1", None),
        ({"https_proxy": "http://p:1"}, "raspberry", None),
        ({"https_proxy": "http://p:1"}, "pi.local", None),
        ({"FLASH_EDGE_PROXY": "http://q:2"}, "192.168.1.9", "http://q:2"),
        ({"FLASH_EDGE_PROXY": "", "https_proxy": "http://p:1"}, "b.example", None),
    ],
)
def test_the_environment_is_honoured_beyond_the_local_network(
    environment: dict[str, str], host: str, expected: str | None
) -> None:
    found = proxy_from(environment, host)
    assert (None if found is None else found.url) == expected
    keys = Keys()
    keys.broker, keys.proxy = f"mqtt://{host}", "none"
    assert broker_address(keys, environment=environment).proxy is None


@pytest.mark.parametrize(
    "url", ["ftp://p:1", "http://", "http://p:0", "http://u:hu/n@p"]
)
def test_a_proxys_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="proxy's URL") as caught:
        parse_proxy(url)
    assert "hu/n" not in str(caught.value)
