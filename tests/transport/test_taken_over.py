"""Links that end for another reason than what they carried: no limit is halved."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import mosquitto
from patience import patience, waited

from edge_sdk.transport import link_ends
from edge_sdk.transport.backoff import QUOTA, TAKEN_OVER, Ending, Parted
from edge_sdk.transport.dialect import Dialect
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.transport.link_ends import LONE, QUIET_S, SHORT, LinkEnds
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.transport.open_link import _MEMORY

DATA = Parted("f/pi-1/dat", 65_000)
FREE = BrokerLimits()


def fresh() -> LinkEnds:
    return LinkEnds(FREE, "pi-1", (0.5, 15.0))


def said(ends: LinkEnds, *found: Ending) -> list[str]:
    return [line.text for end in found for line in ends.ended(ends.limits, end)[1]]


# -- with a reason ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [0x87, 0x89, 0x8B, 0x8D, TAKEN_OVER, QUOTA, 0x98, 0x9C, 0x9D, 0x9F, 0xA0]
)
@pytest.mark.parametrize("act", [DATA, replace(DATA, retain=True)])
def test_a_reason_that_speaks_of_no_size_halves_nothing(
    reason: int, act: Parted
) -> None:
    """A broker that goes down, a keepalive that ran out, a person, a quota, a place."""
    ends, end = fresh(), Ending(1.0, act, reason, burst=40, last=act)
    lines = said(ends, *[end] * 8)
    assert ends.limits == FREE
    assert ends.quiet_s == 0
    assert not any("more than the broker takes" in line for line in lines)
    forbidden = [line for line in lines if "access list forbids" in line]
    assert len(forbidden) == (reason == 0x87)


def test_a_quota_behind_a_subscribe_is_one_of_subscriptions() -> None:
    ends = fresh()
    said(ends, Ending(1.0, Parted("f/m/0", 60, 1, 20), QUOTA))
    assert ends.limits.subscriptions == 10


def test_a_client_that_takes_over_is_named_once_with_the_remedy() -> None:
    ends, end = fresh(), Ending(1.0, DATA, TAKEN_OVER)
    (line,) = said(ends, *[end] * 5)
    for words in ("as pi-1", "copied SD card", "flash-edge enroll TOKEN"):
        assert words in line
    waits = [ends.ended(FREE, end)[0] for _ in range(5)]
    assert waits[-1] == (7.5, 15.0)  # both come back later each time
    said(ends, Ending(90.0))  # the other was stopped
    assert said(ends, end)  # and started again


# -- without ---------------------------------------------------------------------------


def test_a_guess_counts_when_a_link_that_is_sent_nothing_stays() -> None:
    ends, end = fresh(), Ending(1.0, DATA)
    assert said(ends, end, end) == []
    assert (ends.quiet_s, ends.limits) == (QUIET_S[0], FREE)
    lines = [line.text for line in ends.stayed()]
    assert "cuts the link each time it is sent" in lines[0]
    assert "from now on at most packets of 32500 bytes" in lines[1]
    assert (ends.quiet_s, ends.limits.packet) == (0, 32_500)
    smaller = Ending(1.0, Parted(DATA.topic, 32_000))
    assert said(ends, smaller)  # at once: it was tested
    assert ends.limits.packet == 16_000


def test_links_that_end_with_nothing_sent_name_another_client() -> None:
    ends, end, lone = fresh(), Ending(1.0, DATA), Ending(0.4)
    said(ends, end, end)
    assert said(ends, lone) == []
    assert ends.quiet_s == QUIET_S[1]  # networks end such links, too
    (line,) = said(ends, *[lone] * (LONE - 1))
    assert "sent nothing, 2 in a row: likely another client connects" in line
    assert (ends.quiet_s, ends.limits) == (0, FREE)
    assert said(ends, end, end) == []  # a new guess has a longer test
    assert (ends.quiet_s, ends.limits) == (QUIET_S[1], FREE)
    ends.stayed()
    assert ends.limits.packet == 32_500


def test_a_broker_that_ends_links_at_once_is_named_when_a_quiet_one_stays() -> None:
    """Two idle devices with one name look alike until nothing is sent."""
    end = Ending(0.4, last=Parted("f/pi-1/st", 90))
    for stays in (True, False):
        ends = fresh()
        assert said(ends, *[end] * 4) == []
        assert ends.quiet_s == QUIET_S[0]
        if stays:
            (line,) = [line.text for line in ends.stayed()]
            assert "4 links in a row" in line
            assert said(ends, *[end] * 9) == []  # once, until one has settled
        else:
            (line,) = said(ends, *[Ending(0.4)] * LONE)
            assert "copied SD card" in line


def test_what_was_guessed_is_given_up_when_another_client_is_found() -> None:
    ends, end = fresh(), Ending(1.0, DATA)
    said(ends, end, end)
    ends.stayed()  # the other one took longer than the test
    said(ends, Ending(90.0), end, end, Ending(0.4), Ending(0.4))
    assert ends.limits == FREE


def test_a_broker_that_was_away_is_no_reason_to_send_less() -> None:
    """It was killed twice while it was sent an update."""
    ends, end = fresh(), Ending(20.0, DATA)
    for _ in range(4):
        assert said(ends, end) == []
        ends.failed(answered=False)
    assert (ends.quiet_s, ends.limits) == (0, FREE)


def test_links_that_end_within_a_minute_with_all_taken_are_named_once() -> None:
    ends = fresh()
    (line,) = said(ends, *[Ending(20.0)] * (2 * SHORT))
    assert "the network is weak, or another client" in line
    assert said(fresh(), *[Ending(90.0)] * (2 * SHORT)) == []


# -- for real --------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("dialect", Dialect)
def test_two_devices_with_one_name_hear_so_and_halve_no_limit(
    dialect: Dialect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both send updates whenever they are up, so each is cut in the middle of one."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("edge_sdk.transport.mqtt.RETRY_S", (0.05, 0.2))
    # Longer than the other takes to come back, however busy the machine is.
    quiet_s = patience(0.5), patience(1.0)
    monkeypatch.setattr(link_ends, "QUIET_S", quiet_s)
    done = threading.Event()

    def device(stack: contextlib.ExitStack) -> MqttTransport:
        ups: queue.Queue[bool] = queue.Queue()
        one = MqttTransport(there, "pi-1", lambda _: None, ups.put)

        def send() -> None:
            while not done.is_set():
                with contextlib.suppress(queue.Empty):
                    if ups.get(timeout=0.1):
                        for _ in range(40):
                            one.publish("f/pi-1/dat", bytes(60_000))

        thread = threading.Thread(target=send)
        thread.start()
        stack.callback(one.close)
        stack.callback(thread.join)
        stack.callback(done.set)
        return one

    with (
        mosquitto(tmp_path, "allow_anonymous true") as there,
        contextlib.ExitStack() as stack,
    ):
        _MEMORY.spoke(there, dialect)
        both = [device(stack) for _ in range(2)]

        def named() -> list[str]:
            return [m for m in caplog.messages if "another client" in m]

        assert waited(lambda: bool(named()), 30, look_s=0.05), caplog.messages
        packets = {one._ends.limits.packet for one in both}
    assert "pi-1" in named()[0]
    assert "copied SD card" in named()[0]
    assert packets == {FREE.packet}
    assert not any("has cut the link behind" in m for m in caplog.messages)
