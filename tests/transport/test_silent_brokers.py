"""Brokers that drop without a word, or close at something unknown: named, no loop."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from pathlib import Path
from typing import Any

import pytest
from brokers import mosquitto, open_kind
from limiting import LimitingBroker
from patience import patience, waited

from coordinator.protocol.publisher import ECHO_S, Publisher
from edge_sdk.agent.silence import SILENT_S, SilenceWatch
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import ReceivedMessage, Will
from edge_sdk.transport.limits import BrokerLimits, suspicion
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.open_link import _MEMORY
from edge_sdk.wire import topics
from edge_sdk.wire.messages import Announce

WAIT_S = patience(30.0)
ANN, IN = topics.announcement("home"), topics.inbox("home", "pi-1")
OUT = topics.upload("home", "pi-1", 0, data=False)


# -- a device that hears nothing -------------------------------------------------------


def test_a_device_that_gets_no_answer_names_the_topics_within_a_minute() -> None:
    watch = SilenceWatch("pi-1", "home").connected(100.0)
    assert watch.look(100.0 + SILENT_S - 1) == (watch, "")
    watch, said = watch.look(100.0 + SILENT_S)
    assert (ANN in said, IN in said, "access list" in said) == (True, True, True)
    assert watch.look(900.0)[1] == ""  # once
    assert SILENT_S + 20 < 60  # it is looked at when it asks again, each 20 s
    here = watch.connected(1000.0).heard(ANN)
    _, said = here.look(1040.0)
    assert "a coordinator has announced itself" in said
    assert (OUT in said, IN in said) == (True, True)
    assert here.heard(IN).look(1100.0)[1] == ""
    assert SilenceWatch("pi-1", "home").look(9e9)[1] == ""  # not connected


@pytest.mark.broker
def test_an_agent_under_a_silent_access_list_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sdk.agent import Agent, Identity, silence
    from edge_sdk.agent import loop as agent_loop
    from edge_sdk.storage.journal import Journal

    monkeypatch.setattr(silence, "SILENT_S", 1.0)
    monkeypatch.setattr(agent_loop, "NUDGE_S", dict.fromkeys(agent_loop.NUDGE_S, 0.2))
    (tmp_path / "acl").write_text(f"topic read {ANN}\n", encoding="utf-8")
    told = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "drops one of these topics" in record.getMessage():
                told.set()

    class Idle:
        engine, engines = "masked", ("masked",)

    acl = f"acl_file {tmp_path / 'acl'}"
    with mosquitto(tmp_path, "allow_anonymous true", acl) as there:
        # The announcement came before the list was so narrow.
        watch = SilenceWatch("pi-1", "home")

        def connect(*given: Any) -> MqttTransport:
            deliver, on_link, will = given
            return MqttTransport(there, "pi-1", deliver, on_link, will=will)

        me = Identity("pi-1", "home", "digits", 8, {})
        agent = Agent(me, connect, Journal(tmp_path / "j"), Idle())  # type: ignore[arg-type]
        agent._silence = watch
        handler = Watch()
        logging.getLogger("edge_sdk.agent.loop").addHandler(handler)
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        try:
            # A new link forgets what was heard before.
            assert waited(lambda: agent._silence.since is not None, 30)
            agent._deliver(ReceivedMessage(ANN, b""))
            assert told.wait(WAIT_S)
        finally:
            agent.stop()
            thread.join(WAIT_S)
            agent.close()
            logging.getLogger("edge_sdk.agent.loop").removeHandler(handler)
    (line,) = [m for m in caplog.messages if "drops one of these topics" in m]
    assert (OUT in line, IN in line) == (True, True)


def test_a_coordinator_whose_announcement_is_dropped_names_its_topic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    link = MemoryBroker().connect(lambda _: None, lambda _: None)
    publisher = Publisher(link, "home", 1, clock=lambda: now[0])
    said = Announce("running", "digits", 1, 1, ["fp32"])
    publisher.announce(said)
    for heard, lines in ((True, 0), (False, 1), (False, 2)):
        publisher.after_connect()
        if heard:
            publisher.echoed()
        for _ in range(3):
            now[0] += ECHO_S
            publisher.tick()
        found = [m for m in caplog.messages if "does not come back" in m]
        assert len(found) == lines
    assert ANN in found[0]


@pytest.mark.broker
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_coordinator_under_a_silent_access_list_names_its_topic(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether what it says is dropped on the way there, or on the way back."""
    now, heard = [0.0], threading.Event()

    def deliver(message: ReceivedMessage) -> None:
        assert message.topic != ANN
        heard.set()

    acl = tmp_path / "acl"
    acl.write_text(f"topic {way} {ANN}\ntopic readwrite t/1\n", encoding="utf-8")
    with (
        mosquitto(tmp_path, "allow_anonymous true", f"acl_file {acl}") as there,
        contextlib.closing(
            MqttTransport(there, "c1", deliver, lambda _: None, wait_s=WAIT_S)
        ) as link,
    ):
        link.subscribe(ANN, "t/1")
        publisher = Publisher(link, "home", 1, clock=lambda: now[0])
        publisher.announce(Announce("running", "digits", 1, 1, ["fp32"]))
        publisher.after_connect()
        link.publish("t/1", b"after it")
        assert heard.wait(WAIT_S)
        now[0] += ECHO_S
        publisher.tick()
    (said,) = [m for m in caplog.messages if "does not come back" in m]
    assert ANN in said
    assert ECHO_S < 60


# -- a broker that closes at something unknown -----------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("qos", [1, 0])
@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (BrokerLimits(filters=5), "filters"),
        (BrokerLimits(packet=20_000), "packet"),
    ],
    ids=["filters", "packet"],
)
def test_an_unknown_limit_is_found_by_halving_and_all_goes_through(
    limits: BrokerLimits,
    kind: str,
    qos: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy knows a limit that we do not, and closes the link at each breach."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.02, 0.5))
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    links: queue.Queue[bool] = queue.Queue()
    with (
        mosquitto(tmp_path, "allow_anonymous true", f"max_qos {qos}") as broker,
        LimitingBroker(broker.port, limits, "close") as proxy,
    ):
        there = Address("127.0.0.1", proxy.port)
        with contextlib.closing(
            MqttTransport(there, "x1", got.put, links.put, wait_s=WAIT_S)
        ) as transport:
            assert transport.limits().qos == qos
            transport.subscribe(*(f"t/{n}" for n in range(32)))
            done = threading.Event()

            def send() -> None:
                """As an agent does: chunks of the size that the broker takes."""
                while not done.is_set():
                    size = min(60_000, transport.limits().packet - 1000)
                    transport.publish("t/31", bytes(size))
                    done.wait(0.3)

            sender = threading.Thread(target=send)
            sender.start()
            try:
                found = got.get(timeout=WAIT_S)
            finally:
                done.set()
                sender.join()
            most = getattr(transport._ends.limits, kind)
            # A person raises the limit; a link that has lasted long enough ends.
            proxy.limits = BrokerLimits()
            monkeypatch.setattr(suspicion, "RESTORED_S", 0.0)
            for _ in range(3):  # the first may cut a message that is still under way
                while not links.empty():
                    links.get_nowait()
                proxy.cut()
                while not links.get(timeout=WAIT_S):
                    pass
            assert getattr(transport.limits(), kind) > getattr(limits, kind)
            transport.publish("t/30", bytes(60_000))
            while got.get(timeout=WAIT_S).topic != "t/30":
                pass
    assert found.topic == "t/31"
    assert most <= getattr(limits, kind)
    assert 2 <= sum(proxy.breaches.values()) <= 12  # each size is tried twice
    said = [m for m in caplog.messages if "has cut the link behind" in m]
    assert ("a SUBSCRIBE of" if kind == "filters" else "a message of") in said[0]
    assert "from now on at most" in said[0]


@pytest.mark.broker
@pytest.mark.parametrize("qos", [1, 0])
def test_a_broker_that_closes_at_a_retained_message_is_asked_to_retain_none(
    qos: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.01, 0.05))
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    links: queue.Queue[bool] = queue.Queue()
    with (
        mosquitto(tmp_path, "allow_anonymous true", f"max_qos {qos}") as broker,
        LimitingBroker(broker.port, BrokerLimits(retained=10), "close") as proxy,
    ):
        there = Address("127.0.0.1", proxy.port)
        with contextlib.closing(
            MqttTransport(there, "x1", got.put, links.put)
        ) as transport:
            transport.subscribe(ANN)
            while transport.limits().retained:
                if links.get(timeout=WAIT_S):
                    transport.publish(ANN, b"here", retain=True)
            transport.publish(ANN, b"here", retain=True)
            assert got.get(timeout=WAIT_S).payload == b"here"
        # Where the SUBACK comes late, the SUBSCRIBE is suspected first.
        assert sum(proxy.breaches.values()) <= 2 * suspicion.KEPT


@pytest.mark.broker
def test_a_broker_without_qos_1_that_closes_at_many_messages_is_sent_fewer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.02, 0.2))
    links: queue.Queue[bool] = queue.Queue()
    with (
        mosquitto(tmp_path, "allow_anonymous true", "max_qos 0") as broker,
        LimitingBroker(broker.port, BrokerLimits(publishes_per_s=10), "close") as proxy,
    ):
        there = Address("127.0.0.1", proxy.port)
        with contextlib.closing(
            MqttTransport(there, "x1", lambda _: None, links.put)
        ) as transport:

            def slower() -> bool:
                with contextlib.suppress(queue.Empty):
                    if links.get(timeout=0.1):
                        for _ in range(32):
                            transport.publish("t/1", bytes(100))
                return transport.limits().publishes_per_s <= 20

            assert waited(slower, 30), caplog.messages
    (said, *_) = [m for m in caplog.messages if "has cut the link behind" in m]
    assert "messages a second" in said


# -- a broker that refuses wills -------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@pytest.mark.parametrize("answer", ["close", "refuse"])
def test_a_broker_that_refuses_wills_is_used_without_one(
    answer: str,
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked with one once, not at each link; after an hour it is again."""
    will = Will("st/x1", b"gone")
    links: queue.Queue[bool] = queue.Queue()
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    with (
        open_kind(kind, tmp_path) as broker,
        LimitingBroker(broker.port, BrokerLimits(), answer, wills=False) as proxy,
    ):
        there = Address("127.0.0.1", proxy.port)
        with contextlib.closing(
            MqttTransport(there, "x1", got.put, links.put, will=will, wait_s=WAIT_S)
        ) as transport:
            assert links.get(timeout=WAIT_S)
            asked = proxy.breaches["CONNECT will"]
            assert 1 <= asked <= 2  # a version each
            proxy.cut()
            assert not links.get(timeout=WAIT_S)
            assert links.get(timeout=WAIT_S)
            transport.subscribe("t/1")
            transport.publish("t/1", b"here")
            assert got.get(timeout=WAIT_S).payload == b"here"
            assert proxy.breaches["CONNECT will"] == asked
            monkeypatch.setattr(_MEMORY, "_no_wills", {})
            proxy.cut()
            assert not links.get(timeout=WAIT_S)
            assert links.get(timeout=WAIT_S)
            assert proxy.breaches["CONNECT will"] > asked
    (said, *_) = [m for m in caplog.messages if "without a last will only" in m]
    assert "st/x1" in said


@pytest.mark.broker
def test_who_is_refused_for_another_reason_hears_that_and_not_of_its_will(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        mosquitto(tmp_path, "allow_anonymous false") as broker,
        pytest.raises(BrokerError, match="Not authorized"),
    ):
        MqttTransport(
            broker,
            *("x1", print, lambda _: None),
            will=Will("st/x1", b"gone"),
            wait_s=WAIT_S,
        )
    assert not [m for m in caplog.messages if "last will" in m]
