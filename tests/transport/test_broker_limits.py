"""A broker's limits: what it refuses or cuts links for is said, and waited for."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import mosquitto
from limiting import LimitingBroker
from patience import patience

from coordinator.operations.doctor import examine as examine_run
from coordinator.server.devices.presence import UNHEARD_S, Unheard
from edge_sdk.device.doctor import Check, DoctorTarget, link
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address, Tls
from edge_sdk.transport.backoff import (
    QUICK,
    SUSPECT,
    Backoff,
    Ending,
    Parted,
    suspected,
)
from edge_sdk.transport.base import ReceivedMessage, Will
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.trial import measure_broker, try_broker

WAIT_S = patience(20.0)
HELLO = Parted("flash/1/f/up/dev-1", 1800)


def connect(
    address: Address, *, wait_s: float = WAIT_S
) -> tuple[MqttTransport, queue.Queue[ReceivedMessage], queue.Queue[bool]]:
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    links: queue.Queue[bool] = queue.Queue()
    return (
        MqttTransport(address, "x1", got.put, links.put, wait_s=wait_s),
        got,
        links,
    )


# -- the wait, as a table --------------------------------------------------------------


def test_each_failure_is_waited_for_twice_as_long_up_to_a_bound() -> None:
    now, waits = Backoff(0.5, 15.0), []
    for _ in range(8):
        now, wait = now.failed()
        waits.append(wait)
    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_link_that_carried_what_it_was_given_starts_the_waits_anew() -> None:
    now = Backoff(0.5, 15.0)
    for _ in range(5):
        now, _ = now.failed()
    for how in (Ending(3.0), Ending(3600.0, HELLO)):
        assert now.ended(how) == (Backoff(0.5, 15.0), 0.5)


def test_links_cut_behind_one_message_are_waited_for_longer_each_time() -> None:
    now, waits, suspects = Backoff(0.5, 15.0), [], []
    for size in (1800, 1801, 1799, 1800, 1800, 1800, 1800, 1800, 1800, 1800):
        now, wait = now.ended(Ending(0.1, Parted(HELLO.topic, size)))
        waits.append(wait)
        suspects.append(now.suspect is not None)
    assert waits == sorted(waits)
    assert waits[0] == 0.5
    assert waits[-1] == 120.0
    assert suspects == [n >= SUSPECT for n in range(1, 11)]
    now, wait = now.failed()  # a broker that is away meanwhile does not shorten it
    assert wait == 120.0
    other, wait = now.ended(Ending(0.1, Parted("another", 100)))
    assert (wait, other.suspect) == (0.5, None)


def test_links_that_end_at_once_with_all_answered_are_waited_for_longer() -> None:
    """As of a broker that refuses a topic, and then hangs up."""
    now, waits, said = Backoff(0.5, 15.0), [], []
    for _ in range(12):
        before, end = now, Ending(0.1, last=Parted("f/st", 90))
        now, wait = now.ended(end)
        waits.append(wait)
        said.append(suspected(before, now, end))
    assert waits[:3] == [0.5] * 3  # networks do that
    assert waits[3:8] == [1.0, 2.0, 4.0, 8.0, 15.0]
    assert waits[8:] == [15.0] * 4
    assert [bool(one) for one in said] == [n == 3 for n in range(12)]
    assert "4 links in a row" in said[3]
    assert "a message of 90 bytes to f/st" in said[3]
    assert now.ended(Ending(30.0)) == (Backoff(0.5, 15.0), 0.5)


def test_links_that_end_at_once_behind_ever_another_message_are_waited_for_longer() -> (
    None
):
    now, waits, said = Backoff(0.5, 15.0), [], []
    for place in range(12):
        before, end = now, Ending(0.1, Parted(f"t/{place % 2}", 90))
        now, wait = now.ended(end)
        waits.append(wait)
        said.append(suspected(before, now, end))
    assert waits[2:6] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 15.0
    assert [bool(one) for one in said] == [n == 3 for n in range(12)]


# -- brokers ---------------------------------------------------------------------------


@pytest.mark.broker
def test_a_message_above_the_size_limit_is_named_and_the_link_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto answers by a PUBACK that MQTT 5 does not have; paho would hang up."""
    with mosquitto(
        tmp_path, "allow_anonymous true", "message_size_limit 1500"
    ) as there:
        transport, got, links = connect(there)
        with contextlib.closing(transport):
            assert links.get(timeout=WAIT_S)
            transport.subscribe("t/+")
            transport.publish("t/hello", bytes(2000))
            transport.publish("t/small", bytes(100))
            assert got.get(timeout=WAIT_S).topic == "t/small"
            for _ in range(3):
                transport.publish("t/hello", bytes(2000))
            transport.publish("t/last", bytes(100))
            assert got.get(timeout=WAIT_S).topic == "t/last"
            assert 1500 < transport.limits().packet < 2100  # chunks are made to fit
            assert links.empty()
    assert "link to the broker is down" not in caplog.text
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert "refused a message to t/hello" in said[0]
    assert "Packet too large" in said[0]
    assert "message_size_limit" in said[0]
    assert len([line for line in said if "t/hello" in line]) <= 2


class Cutter:
    """Speaks enough MQTT 3.1.1 and 5 to take a CONNECT, and cuts at each PUBLISH."""

    def __init__(self, *, connack: bytes | None = b"\x20\x03\x00\x00\x00") -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        self._connack = connack
        self.links = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._server.accept()
                with link:
                    self._one(link)

    def _one(self, link: socket.socket) -> None:
        link.settimeout(WAIT_S)
        with contextlib.suppress(OSError):
            packet = link.recv(65536)
            if self._connack is None or not packet:
                return
            self.links += 1
            link.sendall(self._connack)
            while packet := link.recv(65536):
                if packet[0] & 0xF0 == 0x30:  # PUBLISH
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    one = Cutter()
    yield one
    one.close()


def test_a_broker_that_cuts_the_link_behind_a_message_is_told_which(
    cutter: Cutter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.01, 0.5))
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    told = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "cuts the link each time" in record.getMessage():
                told.set()

    watch = Watch()
    logging.getLogger("edge_sdk.transport.mqtt").addHandler(watch)
    transport: list[MqttTransport] = []

    def on_link(up: bool) -> None:
        if up:
            transport[0].publish("f/hello", bytes(1800))

    ready = threading.Event()
    transport.append(
        MqttTransport(
            cutter.address,
            "x1",
            got.put,
            lambda up: (ready.wait(WAIT_S), on_link(up)),  # type: ignore[func-returns-value]
        )
    )
    ready.set()
    try:
        assert told.wait(WAIT_S)
    finally:
        transport[0].close()
        logging.getLogger("edge_sdk.transport.mqtt").removeHandler(watch)
    (line,) = [m for m in caplog.messages if "cuts the link each time" in m]
    assert "18" in line  # the size
    assert "f/hello" in line
    assert "message_size_limit" in line


def test_a_broker_that_hangs_up_behind_what_it_need_not_answer_is_no_loop(
    cutter: Cutter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.01, 60.0))
    monkeypatch.setattr("edge_sdk.transport.backoff.QUICK_S", 60.0)  # a slow machine
    monkeypatch.setattr("edge_sdk.transport.link_ends.QUIET_S", (0.2, 0.2))
    links = queue.Queue[bool]()
    with contextlib.closing(
        MqttTransport(cutter.address, "x1", lambda _: None, links.put)
    ) as transport:
        while "links in a row at once" not in caplog.text:
            if links.get(timeout=WAIT_S):
                transport.publish("f/hello", bytes(1800), sure=False)
    (said,) = [m for m in caplog.messages if "links in a row at once" in m]
    assert "f/hello" in said
    assert cutter.links <= QUICK + 4  # one is sent nothing; it goes on, later each time


def test_a_broker_that_hangs_up_on_every_connect_says_what_that_may_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    cutter = Cutter(connack=None)
    try:
        with pytest.raises(
            BrokerError, match="closed the connection after our CONNECT"
        ):
            connect(cutter.address, wait_s=0.5)
    finally:
        cutter.close()
    (said,) = {m for m in caplog.messages if "no link to" in m}
    assert "no room for more clients" in said


@pytest.mark.broker
@pytest.mark.parametrize("line", ["retain_available false", "max_qos 0"])
def test_a_broker_without_retained_messages_or_qos_1_is_served(
    line: str, tmp_path: Path
) -> None:
    """A will that asks for either is refused with the CONNECT; it is asked again."""
    with mosquitto(tmp_path, "allow_anonymous true", line) as there:
        got: queue.Queue[ReceivedMessage] = queue.Queue()
        links: queue.Queue[bool] = queue.Queue()
        will = Will("t/will", b"gone")
        with contextlib.closing(
            MqttTransport(there, "x1", got.put, links.put, will=will, wait_s=WAIT_S)
        ) as transport:
            assert links.get(timeout=WAIT_S)
            transport.subscribe("t/+")
            transport.publish("t/1", b"x", retain=True)
            assert got.get(timeout=WAIT_S).topic == "t/1"
            assert links.empty()
            limits = transport.limits()
            assert (limits.retained, limits.qos).count(0) == 1


def test_tls_to_a_plain_port_says_which_port_is_meant() -> None:
    cutter = Cutter(connack=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wrong = Address("127.0.0.1", cutter.address.port, tls=Tls())
    try:
        with pytest.raises(BrokerError, match="does not speak TLS"):
            connect(wrong)
    finally:
        cutter.close()


# -- what finds it ---------------------------------------------------------------------


def both_doctors(there: Address, folder: Path) -> tuple[Check, Check]:
    """What the device's and the coordinator's say of packets."""
    device = link.packets(DoctorTarget(broker_url=there.url))
    (folder / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "x"\n'
        f'densities = [0.5]\nrounds = 1\nwait_for = 1\nbroker = "{there.url}"\n',
        encoding="utf-8",
    )
    (run,) = [c for c in examine_run(folder) if c.name == "broker"]
    return device, run


@pytest.mark.broker
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("message_size_limit 1500", True),
        ("max_packet_size 1500", True),
        ("message_size_limit 20000", False),  # it says so, and chunks are made to fit
        ("max_packet_size 20000", False),
        ("max_packet_size 200000", False),
    ],
)
def test_both_doctors_try_the_sizes_that_will_be_sent(
    line: str, problem: bool, tmp_path: Path
) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", line) as there:
        found = both_doctors(there, tmp_path)
    assert [c.status for c in found] == (["problem"] * 2 if problem else ["PASS"] * 2)
    if problem:
        assert all("message_size_limit" in check.fix for check in found)


@pytest.mark.broker
def test_a_closed_access_list_hides_no_limit(tmp_path: Path) -> None:
    """mosquitto looks at the size first, and so says it also where nothing returns."""
    (tmp_path / "acl").write_text("topic readwrite mine/#\n", encoding="utf-8")
    access_control = ("allow_anonymous true", f"acl_file {tmp_path / 'acl'}")
    with mosquitto(tmp_path, *access_control) as there:
        trial = try_broker(there, (4096,), echo_s=0.5)
        assert (trial.echoes, trial.stuck) == (False, ())
    with mosquitto(tmp_path, *access_control, "message_size_limit 1500") as there:
        trial = try_broker(there, (4096,), echo_s=0.5)
        assert (trial.echoes, trial.stuck) == (False, (4096,))


@pytest.mark.broker
def test_a_wrong_password_of_the_coordinator_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("", encoding="utf-8")
    lines = ("allow_anonymous false", f"password_file {tmp_path / 'passwords'}")
    with mosquitto(tmp_path, *lines) as there:
        wrong = Address(there.host, there.port)
        (tmp_path / "run.toml").write_text(
            'federation = "home"\ntask = "digits"\nevaluation = "x"\n'
            "densities = [0.5]\nrounds = 1\nwait_for = 1\n"
            f'broker = "mqtt://me:wrong@{wrong.host}:{wrong.port}"\n',
            encoding="utf-8",
        )
        (run,) = [c for c in examine_run(tmp_path) if c.name == "broker"]
    assert run.status == "problem"
    assert "refuses us" in run.detail
    assert "wrong" not in run.detail
    assert "Check user and password" in run.fix


def test_who_is_connected_and_never_says_hello_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unheard = Unheard()
    unheard.hello("fine")
    assert unheard.look({"fine", "mute", "late"}, 0.0) == []
    unheard.hello("late")
    for now in (UNHEARD_S, UNHEARD_S + 1):
        assert unheard.look({"fine", "mute", "late"}, now) == ["mute"]
    assert unheard.look({"fine", "late"}, UNHEARD_S + 2) == []
    assert unheard.look({"mute"}, UNHEARD_S + 3) == []  # it came anew
    (said,) = [m for m in caplog.messages if "HELLO has not come" in m]
    assert said.startswith("mute is connected")
    assert "message_size_limit" in said


@pytest.mark.broker
def test_a_users_broker_is_measured_within_its_limits(tmp_path: Path) -> None:
    limits = BrokerLimits("mine", publishes_per_s=200, filters=1)
    with mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 70000") as plain:
        with LimitingBroker(plain.port, limits) as proxy:
            there = Address("127.0.0.1", proxy.port, limits=limits)
            found = measure_broker(there)
            assert not proxy.breaches
        (tmp_path / "password").write_text("pw", encoding="utf-8")
        (tmp_path / "run.toml").write_text(
            'federation = "home"\ntask = "digits"\nevaluation = "x"\n'
            f'densities = [0.5]\nrounds = 1\nwait_for = 1\nbroker = "{plain.url}"\n'
            'broker_user = "me"\nbroker_password_file = "password"\n'
            'broker_profile = "aws-iot"\n',
            encoding="utf-8",
        )
        (check,) = [c for c in examine_run(tmp_path) if c.name == "broker limits"]
    assert (found.retained, found.wildcards, found.limits.packet) == (True, True, 70000)
    assert found.latency_ms is not None
    assert found.rate is not None
    assert 0 < found.rate <= 200
    assert check.status == "PASS"
    assert "aws-iot: packets of 70000 bytes" in check.detail
    assert "retained yes, wildcards yes" in check.detail


@pytest.mark.broker
def test_a_broker_without_retained_messages_is_measured_as_such(tmp_path: Path) -> None:
    with mosquitto(tmp_path, "allow_anonymous true", "retain_available false") as there:
        found = measure_broker(there, echo_s=1.0)
    assert (found.retained, found.wildcards) == (False, True)
    assert "nothing retained" in str(found)
