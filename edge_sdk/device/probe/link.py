"""Speed of the link to the broker, measured by an echo of our own through it."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass, field

from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import parse_url
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire import topics

__all__ = ["LinkRate", "measure_link"]

CHUNK = 64 * 1024  # the size of the chunks that models travel in
PINGS = 7
AHEAD = 4  # chunks under way: hides the round trip, and is what a credit allows
ECHO_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class LinkRate:
    """The link as an update sees it.

    Attributes:
        mbit_s: Rate that chunks go up and come down at the same time; each direction
            alone is at least as fast.
        rtt_ms: Median of a small message there and back.
        chunks: Chunks behind the rate.
    """

    mbit_s: float
    rtt_ms: float
    chunks: int


@dataclass
class _Echo:
    """Counts what comes back; the network thread calls it."""

    count: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, _delivery: ReceivedMessage) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait(self, count: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.count >= count, ECHO_WAIT_S):
                raise BrokerError(
                    "the broker does not return what this device sends to itself",
                    remedy="Measure before access control is set up, or enter the "
                    "link's rate in the profile by hand.",
                )


def measure_link(
    broker_url: str,
    *,
    seconds: float = 5.0,
    wait_s: float = ECHO_WAIT_S,
) -> LinkRate:
    """Sends chunks to a topic of this device's own and counts them coming back.

    Args:
        broker_url: ``mqtt://host:port``.
        seconds: Time to spend on the rate.
        wait_s: How long to wait for the broker to answer at all.

    Raises:
        BrokerError: No broker answers, or it does not return the echo.
    """
    client = f"probe-{os.urandom(6).hex()}"
    topic = topics.upload("probe", client, 0, data=True)
    echo = _Echo()
    transport = MqttTransport(
        parse_url(broker_url),
        client,
        echo,
        lambda _up: None,
        wait_s=wait_s,
        once=True,
    )
    try:
        transport.subscribe(topic)
        time.sleep(0.05)  # the subscription's acknowledgement is not told to us
        return _measure(transport, topic, echo, seconds)
    finally:
        transport.close()


def _measure(
    transport: MqttTransport,
    topic: str,
    echo: _Echo,
    seconds: float,
) -> LinkRate:
    trips: list[float] = []
    for _ in range(PINGS):
        began = time.perf_counter()
        transport.publish(topic, b"ping", sure=False)
        echo.wait(len(trips) + 1)
        trips.append(time.perf_counter() - began)
    chunk = os.urandom(CHUNK)  # nothing on the way can compress it
    sent, start, before = 0, time.perf_counter(), PINGS
    while sent < AHEAD or time.perf_counter() - start < seconds:
        transport.publish(topic, chunk)
        sent += 1
        if sent >= AHEAD:
            echo.wait(before + sent - AHEAD + 1)
    echo.wait(before + sent)
    rate = 8e-6 * CHUNK * sent / max(time.perf_counter() - start, 1e-6)
    return LinkRate(rate, 1000 * statistics.median(trips), sent)
