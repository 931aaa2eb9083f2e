"""What a link has handed out may be called when it has ended: nothing raises."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import patience

from coordinator.broker.start import open_broker
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import OutgoingMessage, ReceivedMessage
from edge_sdk.transport.client import paho_client
from edge_sdk.transport.client.opening import MAX_INFLIGHT
from edge_sdk.transport.dialect import Dialect
from edge_sdk.transport.link import Link
from edge_sdk.transport.meter import Meter
from edge_sdk.transport.mqtt import MqttTransport

WAIT_S = patience(20.0)
CUTS = 60


class Scissors:
    """A TCP relay in front of a broker whose connections can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.address = Address("127.0.0.1", self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._pump, args=(source, sink), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends every connection."""
        while self._pairs:
            for each in self._pairs.pop():
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


class Users:
    """Threads that use a link in every way there is, without a look at its state."""

    def __init__(self, link: Link, got: list[ReceivedMessage]) -> None:
        self.broken: list[BaseException] = []
        self._stop = threading.Event()
        small = OutgoingMessage("t/1", b"x" * 100)
        plain = OutgoingMessage("t/2", b"x", sure=False)
        self._threads = [
            threading.Thread(target=self._do, args=(what,))
            for what in (
                lambda: link.publish(small),
                lambda: link.publish(plain),
                lambda: link.subscribe(["a/+"]),
                lambda: link.unsubscribe(["a/+"]),
                lambda: [each.ack() for each in got[-8:]],
            )
        ]
        for thread in self._threads:
            thread.start()

    def _do(self, what: Callable[[], object]) -> None:
        try:
            while not self._stop.wait(0.0005):
                what()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.broken.append(error)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.mark.broker
@pytest.mark.parametrize("dialect", Dialect)
def test_nothing_that_a_cut_link_handed_out_raises(
    dialect: Dialect, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    broken: list[BaseException] = []
    with open_broker(None, tmp_path, kind="mosquitto") as broker:
        scissors = Scissors((broker.host, broker.port))
        for number in range(CUTS // 2):
            got: list[ReceivedMessage] = []
            link = Link(
                scissors.address,
                f"cut-{number}",
                dialect,
                got.append,
                will=None,
                window=8,
                meter=Meter(),
            )
            link.subscribe(["t/+"])
            users = Users(link, got)
            threading.Event().wait(rng.uniform(0, 0.03))
            if number % 2:
                link.close()
            else:
                scissors.cut()
                assert link.gone.wait(WAIT_S)
            link.close()
            for each in got:
                each.ack()
            link.publish(OutgoingMessage("t/1", b"late"))
            users.stop()
            broken += users.broken
        scissors.close()
    assert broken == []


@pytest.mark.broker
def test_a_transport_may_be_used_by_callbacks_and_after_its_end(tmp_path: Path) -> None:
    """As an agent does that is told to stop by a message: it closes in a callback."""
    done = threading.Event()
    broken: list[BaseException] = []

    with open_broker(None, tmp_path, kind="mosquitto") as broker:
        kept: list[ReceivedMessage] = []

        def use() -> None:
            for each in kept:
                each.ack()
            transport.publish("t/again", b"x")
            transport.subscribe("u/+")
            transport.unsubscribe("u/+")
            transport.limits()
            transport.traffic()
            transport.close()

        def deliver(delivery: ReceivedMessage) -> None:
            kept.append(delivery)
            if delivery.topic != "t/stop":
                return
            try:
                use()
                use()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                broken.append(error)
            finally:
                done.set()

        transport = MqttTransport(
            Address(broker.host, broker.port),
            "x1",
            deliver,
            lambda _: None,
            wait_s=WAIT_S,
            window=8,
        )
        transport.subscribe("t/+")
        transport.publish("t/first", b"x")
        transport.publish("t/stop", b"x")
        assert done.wait(WAIT_S)
        use()
    assert broken == []


@pytest.mark.broker
def test_a_transport_closed_by_its_own_link_callback_ends(tmp_path: Path) -> None:
    said: list[bool] = []
    with open_broker(None, tmp_path, kind="mosquitto") as broker:
        ready, ended = threading.Event(), threading.Event()

        def on_link(up: bool) -> None:
            ready.wait(WAIT_S)
            said.append(up)
            transport.close()
            if not up:
                ended.set()

        transport = MqttTransport(
            Address(broker.host, broker.port), "x1", print, on_link
        )
        ready.set()
        assert ended.wait(WAIT_S)
        transport.close()
    assert said == [True, False]


def two_links(
    address: Address,
) -> tuple[queue.Queue[ReceivedMessage], MqttTransport, MqttTransport]:
    """What the first of two links hears, and both."""
    heard: queue.Queue[ReceivedMessage] = queue.Queue()
    other, ours = (
        MqttTransport(address, name, take, lambda _: None, wait_s=WAIT_S)
        for name, take in (("other", heard.put), ("ours", lambda _: None))
    )
    return heard, other, ours


def test_what_is_said_last_arrives_though_the_broker_has_more_to_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A closed socket answers by a reset, and the broker drops what it has not read."""
    monkeypatch.setattr(paho_client, "LEAVE_S", WAIT_S)
    with open_broker(None, tmp_path / "broker", kind="mosquitto") as broker:
        heard, other, ours = two_links(broker.address)
        other.subscribe("last", "mark")
        for no in range(50):
            other.publish(f"kept/{no}", bytes(5_000), retain=True)
        other.publish("mark", b"")
        heard.get(timeout=WAIT_S)  # all of it is there
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            ours.subscribe("kept/+")
            ours.publish("last", b"word")
            closing = threading.Thread(target=ours.close)
            closing.start()
            time.sleep(0.5)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        closing.join(WAIT_S)
        assert heard.get(timeout=WAIT_S).payload == b"word"
        other.close()


def test_what_waits_for_a_brokers_answers_is_sent_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker takes so many messages at once; paho drops the others at the end."""
    monkeypatch.setattr(paho_client, "LEAVE_S", WAIT_S)
    with open_broker(None, tmp_path / "broker", kind="mosquitto") as broker:
        heard, other, ours = two_links(broker.address)
        other.subscribe("said/+", "mark")
        other.publish("mark", b"")
        heard.get(timeout=WAIT_S)  # it is subscribed
        topics = [f"said/{no}" for no in range(10 * MAX_INFLIGHT)]
        for topic in topics:
            ours.publish(topic, b"word")
        ours.close()
        assert [heard.get(timeout=WAIT_S).topic for _ in topics] == topics
        other.close()
