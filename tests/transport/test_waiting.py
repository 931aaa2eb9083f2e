"""What is waited for and what ends a coordinator's start; and how each is said."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from brokers import mosquitto
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from patience import patience
from walls import Answering, Listener, SecureFront, pipe

from edge_sdk.errors import BrokerError
from edge_sdk.transport import mqtt
from edge_sdk.transport.address import Address, Tls
from edge_sdk.transport.dialect import RefusedError
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.open_link import open_link
from edge_sdk.transport.proxy import Proxy

WAIT_S = patience(20.0)
UNAVAILABLE, BAD_PASSWORD = 0x88, 0x86  # of MQTT 5.0, section 2.4


class Door(Listener):
    """Closes each connection, until it is opened: then it leads to a broker."""

    def __init__(self, to: int) -> None:
        self._to, self.open = to, threading.Event()
        super().__init__()

    def serve(self, link: socket.socket) -> None:
        if self.open.is_set():
            pipe(link, socket.create_connection(("127.0.0.1", self._to)))


def patient(address: Address, links: queue.Queue[bool]) -> MqttTransport:
    given = address, "x1", lambda _: None, links.put
    return MqttTransport(*given, wait_s=0.5, patient=True)


def refusal(address: Address) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        open_link(address, "x1", print, will=None, window=None, meter=Meter())
    return caught.value


def certificate(folder: Path, *, begins: timedelta) -> Path:
    """PEM of a key and of a certificate of its own for 127.0.0.1, of ten days."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    first = datetime.now(timezone.utc) + begins
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(first)
        .not_valid_after(first + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "own.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.broker
def test_a_broker_that_is_away_is_waited_for_and_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RETRY_S", (0.05, 0.2))
    links: queue.Queue[bool] = queue.Queue()
    with (
        mosquitto(tmp_path, "allow_anonymous true") as there,
        Door(there.port) as door,
        contextlib.closing(patient(Address("127.0.0.1", door.port), links)),
    ):
        assert (
            f"waiting until the broker at mqtt://127.0.0.1:{door.port}" in caplog.text
        )
        assert links.empty()
        door.open.set()
        assert links.get(timeout=WAIT_S)
    assert "it closed the connection" in caplog.text


def test_a_name_that_leads_nowhere_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    links: queue.Queue[bool] = queue.Queue()
    with contextlib.closing(patient(Address("nobody.invalid", 1883), links)):
        assert "waiting until the broker at mqtt://nobody.invalid:1883" in caplog.text


def test_a_broker_without_room_is_waited_for_and_a_wrong_password_is_not() -> None:
    links: queue.Queue[bool] = queue.Queue()
    for reason, waits in ((UNAVAILABLE, True), (BAD_PASSWORD, False)):
        with Answering(bytes([0x20, 3, 0, reason, 0])) as full:
            here = Address("127.0.0.1", full.port)
            assert refusal(here).passing is waits
            if waits:
                patient(here, links).close()
            else:
                with pytest.raises(BrokerError, match="refuses us: Bad user name"):
                    patient(here, links)
            with pytest.raises(BrokerError, match="refuses us"):
                MqttTransport(here, "x1", print, links.put, wait_s=WAIT_S)


@pytest.mark.parametrize(
    ("days", "said"), [(1, "is not valid yet: set the clock"), (-20, "is over: set")]
)
def test_a_clock_that_is_wrong_is_waited_for(
    days: int, said: str, tmp_path: Path
) -> None:
    own = certificate(tmp_path, begins=timedelta(days=days))
    with SecureFront(1, own) as front:
        refused = refusal(Address("localhost", front.port, tls=Tls(own)))
    assert said in str(refused)
    assert refused.passing


@pytest.mark.parametrize(
    ("answer", "said", "passing"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "is a web server",
            False,
        ),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://new.example/x\r\n\r\n",
            "it leads to https://new.example/x",
            False,
        ),
        (b"HTTP/1.1 302 Found\r\n\r\n", "check the path", False),
        (b"HTTP/1.0 401 Who\n\n", "wants a sign-in", False),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            r"at /mqtt \(HTTP/1.1 404 Not Found\)",
            False,
        ),
        (b"HTTP/1.1 503 Away\r\n\r\n", "asked again", True),
        (b"HTTP/1.1\r\n\r\n", "no MQTT over WebSocket at /mqtt", False),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept:x\r\n\r\n", "another hand", False),
        (b"HTTP/1.1 101 Yes\r\nnothing\r\n\r\n", "another handshake", False),
        (b"<html>\xff\x1b[31m", r"answers b'<'.*in place of HTTP", False),
        (b"\x20\x02\x00\x00", "in place of HTTP", False),
    ],
)
def test_an_answer_that_is_no_websocket_is_named(
    answer: bytes, said: str, passing: bool
) -> None:
    with Answering(answer) as web:
        refused = refusal(Address("127.0.0.1", web.port, path="/mqtt"))
    assert refused.passing is passing
    with pytest.raises(RefusedError, match=said):
        raise refused


@pytest.mark.parametrize(
    ("kind", "answer", "said", "passing"),
    [
        ("http", b"HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n", "with a browser", False),
        ("http", b"HTTP/1.1 403 No\r\n\r\n", "403 No; many allow port 443", False),
        ("http", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502 Bad Gateway; it is", True),
        (
            "http",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n"
            b"proxy-authenticate:NTLM\r\n\r\n",
            "a sign-in by Negotiate, NTLM, and Basic is what we know",
            False,
        ),
        (
            "http",
            b"HTTP/1.1 407 No\nProxy-Authenticate: NTLM\n"
            b"Proxy-Authenticate: Basic x\n\n",
            "asks for a user and a password",
            False,
        ),
        ("http", b"<html>sign in</html>", r"no HTTP proxy: it answers b'<'", False),
        ("http", b"HTTP/1.1 \xb2\xb2 odd\r\n\r\n", "no HTTP proxy", False),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no SOCKS5 proxy", False),
        ("socks5", b"\x05\x01", r"another sign-in \(method 1\)", False),
        ("socks5", b"\x05\x02", "asks for a user and a password", False),
        ("socks5", b"\x05\xff", "asks for a user and a password", False),
    ],
)
def test_an_answer_of_a_proxy_that_leads_nowhere_is_named(
    kind: str, answer: bytes, said: str, passing: bool
) -> None:
    with Answering(answer) as wall:
        proxy = Proxy(kind, "127.0.0.1", wall.port)  # type: ignore[arg-type]
        refused = refusal(Address("broker.example", 443, proxy=proxy))
    assert refused.passing is passing
    with pytest.raises(RefusedError, match=said):
        raise refused


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b""), "holds no certificate in PEM"),
        (lambda path: path.write_bytes(b"\xff\0"), "holds no certificate in PEM"),
        (lambda _: None, "cannot be read: No such file"),
    ],
)
def test_a_file_for_tls_that_cannot_be_used_is_named(
    made: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    made(tmp_path / "given.pem")
    with pytest.raises(BrokerError, match=rf"given\.pem {said}"):
        Tls(tmp_path / "given.pem").context()


def test_a_key_that_is_not_the_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mine = certificate(tmp_path, begins=timedelta())
    other = certificate(tmp_path / "a", begins=timedelta())
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(mine.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    Tls(mine, mine).context()
    with pytest.raises(BrokerError, match=r"a/own\.pem is not that of the cert"):
        Tls(mine, mine, other).context()
    with pytest.raises(BrokerError, match=r"locked\.pem no key without a pass phrase"):
        Tls(mine, mine, locked).context()
