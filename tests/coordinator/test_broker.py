from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import ports
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from patience import patience, waited

from coordinator.broker import start
from coordinator.broker.check import check_broker
from coordinator.broker.config import find_mosquitto
from coordinator.broker.start import Broker, free_port, open_broker
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address

pytestmark = pytest.mark.broker

KINDS = ["mosquitto", "embedded"]


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with open_broker(None, tmp_path, kind=request.param) as opened:
        yield opened


def connected(broker: Broker, name: str) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311
    )
    ready = threading.Event()
    client.on_connect = lambda *_: ready.set()
    client.connect(broker.host, broker.port)
    client.loop_start()
    assert ready.wait(patience(10))
    return client


def eventually(true: Callable[[], bool], seconds: float = 10) -> bool:
    return waited(true, seconds)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_messages_pass_and_retained_chunks_wait(broker: Broker) -> None:
    """3 000 queued 1 KiB messages and a retained 64 KiB chunk, at QoS 1."""
    got: list[bytes] = []
    listener = connected(broker, "listener")
    listener.on_message = lambda _client, _data, message: got.append(message.payload)
    subscribed = threading.Event()
    listener.on_subscribe = lambda *_: subscribed.set()
    listener.subscribe("fl/#", qos=1)
    assert subscribed.wait(patience(10))
    sender = connected(broker, "sender")
    number = 3_000 if broker.kind == "mosquitto" else 300
    for index in range(number):
        sender.publish("fl/1/a", index.to_bytes(4, "big") * 256, qos=1)
    chunk = os.urandom(64 * 1024)
    sender.publish("fl/1/m/0", chunk, qos=1, retain=True)
    assert eventually(lambda: len(got) > number, 60)
    assert got[-1] == chunk
    assert [payload[:4] for payload in got[:-1]] == [
        index.to_bytes(4, "big") for index in range(number)
    ]
    late: list[bytes] = []
    latecomer = connected(broker, "late")
    latecomer.on_message = lambda _client, _data, message: late.append(message.payload)
    latecomer.subscribe("fl/1/m/+", qos=1)
    # Once or twice: amqtt sends a retained message again at QoS 0.
    assert eventually(lambda: bool(late))
    assert set(late) == {chunk}
    for client in (listener, sender, latecomer):
        client.disconnect()
        client.loop_stop()


def test_a_killed_broker_is_seen_and_comes_back_on_its_port(broker: Broker) -> None:
    port, pid = broker.port, broker.pid
    assert pid is not None
    assert broker.alive()
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not broker.alive())
    broker.restart()
    assert broker.alive()
    assert broker.pid != pid
    assert broker.port == port
    check_broker(broker.address)


def test_a_running_broker_can_be_restarted(broker: Broker) -> None:
    pid = broker.pid
    broker.restart()
    assert broker.pid != pid
    check_broker(broker.address)


def test_a_restart_from_a_thread_that_ends_outlives_it(broker: Broker) -> None:
    """The kernel's death signal follows threads, not processes."""
    worker = threading.Thread(target=broker.restart)
    worker.start()
    worker.join()
    pid = broker.pid
    assert pid is not None
    assert not eventually(lambda: not running(pid), 0.5)
    check_broker(broker.address)


def test_closing_stops_the_process_and_frees_the_port(broker: Broker) -> None:
    pid = broker.pid
    assert pid is not None
    broker.close()
    broker.close()
    assert not running(pid)
    assert not broker.alive()
    with pytest.raises(BrokerError, match="no MQTT broker answers"):
        check_broker(broker.address)


@pytest.mark.parametrize("kind", KINDS)
def test_the_port_is_kept_from_one_run_to_the_next(tmp_path: Path, kind: str) -> None:
    with open_broker(None, tmp_path, kind=kind) as first:  # type: ignore[arg-type]
        port = first.port
    with open_broker(None, tmp_path, kind=kind) as second:  # type: ignore[arg-type]
        assert second.port == port


def test_a_port_of_our_choice_is_none_that_the_system_gives_to_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client could have it when the broker is started again."""
    given = tmp_path / "ports"
    monkeypatch.setattr(start, "CLIENT_PORTS", given)
    for text, lowest, highest in (
        ("32768\t60999\n", 20_000, 32_767),
        ("20010\t60999\n", 20_000, 20_009),
        ("nonsense", 20_000, 32_767),  # as where nothing says it
        ("1024\t65535\n", 1024, 65_535),  # no port is left: any
    ):
        given.write_text(text)
        found = {free_port("127.0.0.1") for _ in range(20)}
        assert all(lowest <= port <= highest for port in found), text
        assert len(found) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path, kind: str) -> None:
    code = (
        "import pathlib, signal, sys\n"
        "from coordinator.broker.start import open_broker\n"
        f"broker = open_broker(None, pathlib.Path({str(tmp_path)!r}), kind={kind!r})\n"
        "print(broker.pid, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not running(pid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_refused_even_if_a_broker_answers_there(
    broker: Broker, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(BrokerError, match=f"port {broker.port} .* cannot be used"):
        open_broker(None, other, port=broker.port, kind=kind)  # type: ignore[arg-type]
    assert broker.alive()


def test_mosquitto_does_not_run_as_root(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with open_broker(None, closed / "broker", kind="mosquitto") as broker:
        status = Path(f"/proc/{broker.pid}/status").read_text()
        (uids,) = (line for line in status.splitlines() if line.startswith("Uid:"))
        assert set(uids.split()[1:]) != {"0"}
        assert "mosquitto" in (closed / "broker" / "mosquitto.log").read_text()


def test_the_users_broker_is_used_and_left_alone(broker: Broker) -> None:
    folder = Path("never-made")
    with open_broker(broker.url, folder) as mine:
        assert (mine.kind, mine.port, mine.pid) == ("user", broker.port, None)
        assert mine.alive()
        mine.restart()
    assert broker.alive()
    assert not folder.exists()
    broker.close()
    assert not mine.alive()


def test_a_user_broker_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerError, match=f"no MQTT broker answers at {url}"):
            open_broker(url, tmp_path)


def test_what_is_no_mqtt_broker_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            with link:
                link.recv(100)
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(BrokerError, match="is no MQTT broker"):
            check_broker(address)
        thread.join()


def test_a_listener_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(BrokerError, match="timed out"):
            check_broker(address, timeout_s=0.2)


def test_a_broker_that_asks_for_a_password_says_so(tmp_path: Path) -> None:
    """A real mosquitto with a password file: wrong, missing and right."""
    port = ports.free_port()
    users = tmp_path / "users"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(users), "pi", "se:cret"], check=True
    )
    config = tmp_path / "auth.conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\npassword_file {users}\n"
        "allow_anonymous false\n"
    )
    strict = subprocess.Popen(
        [str(find_mosquitto()), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: _listens(port))
        for who in ("", "pi:wrong@"):
            with pytest.raises(BrokerError, match="refuses us") as caught:
                open_broker(f"mqtt://{who}127.0.0.1:{port}", tmp_path)
            assert "wrong" not in str(caught.value)
        mine = open_broker(f"mqtt://pi:se%3Acret@127.0.0.1:{port}", tmp_path)
        assert mine.address.password == "se:cret"  # noqa: S105
        assert "cret" not in mine.url + repr(mine.address)
        mine.close()
    finally:
        strict.terminate()
        strict.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
