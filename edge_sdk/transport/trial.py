"""Trial of a broker: messages to ourselves, of the sizes that we need."""

from __future__ import annotations

import contextlib
import os
import queue
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge_sdk.transport.address import Address
from edge_sdk.transport.base import OutgoingMessage, ReceivedMessage
from edge_sdk.transport.limits import NO_LIMIT, BrokerLimits
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire import topics

__all__ = ["BrokerTrial", "Figures", "measure_broker", "try_broker"]

CONNECT_S = 5.0
ECHO_S = 5.0  # a broker that takes a message gives it back in far less
MUTE_S = 1.0  # after nothing came back at all
SMALL = 16  # bytes; no broker is so strict
TRIPS, BURST = 5, 40  # messages, one by one and at once


@dataclass(frozen=True, slots=True)
class BrokerTrial:
    """Result of a trial.

    Attributes:
        echoes: Whether even a small message came back; False under an access list.
        stuck: The sizes that did not come back, or that the broker refused; bytes of
            the payload.
        limit: Bytes that a packet may take, as the broker says or has shown.
    """

    echoes: bool
    stuck: tuple[int, ...]
    limit: int

    @property
    def limited(self) -> bool:
        """True if the broker has named a limit."""
        return self.limit < NO_LIMIT


def try_broker(
    address: Address, sizes: Sequence[int], *, echo_s: float = ECHO_S
) -> BrokerTrial:
    """Sends messages of these sizes to a topic of our own and looks what comes back.

    Args:
        address: The broker; nobody else may use our client id there.
        sizes: Bytes of the payloads, ascending.
        echo_s: Seconds to wait for each.

    Raises:
        BrokerError: If it does not answer, or refuses us.
    """
    client = f"trial-{os.urandom(6).hex()}"
    topic = topics.upload("trial", client, 0, data=True)
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    transport = MqttTransport(
        address, client, got.put, lambda _up: None, wait_s=CONNECT_S, once=True
    )
    try:
        transport.subscribe(topic)
        echoes = _comes_back(transport, topic, SMALL, got, echo_s)
        stuck = []
        for size in sizes:
            wait_s = echo_s if echoes else min(MUTE_S, echo_s)
            back = _comes_back(transport, topic, size, got, wait_s)
            if not back and (echoes or _is_too_large(transport, topic, size)):
                stuck.append(size)
        return BrokerTrial(echoes, tuple(stuck), transport.limits().packet)
    finally:
        transport.close()


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a broker, as they were measured.

    Attributes:
        limits: As it is known, says, or has shown.
        retained: Whether a retained message came to a later subscription.
        wildcards: Whether a message came by a topic filter with ``+``.
        latency_ms: There and back, the median; None if nothing came back.
        rate: Messages a second, there and back.
    """

    limits: BrokerLimits
    retained: bool
    wildcards: bool
    latency_ms: float | None
    rate: float | None

    def __str__(self) -> str:
        if self.latency_ms is None:
            return f"{self.limits}; its access list lets no message of a trial return"
        return (
            f"{self.limits}; retained {'yes' if self.retained else 'no'}, wildcards "
            f"{'yes' if self.wildcards else 'no'}, {self.latency_ms:.0f} ms there and "
            f"back, {self.rate:.0f} messages a second"
        )


def measure_broker(address: Address, *, echo_s: float = ECHO_S) -> Figures:
    """Measures what a broker does with messages to ourselves, within its limits.

    Args:
        address: The broker; nobody else may use our client id there.
        echo_s: Seconds to wait for each.

    Raises:
        BrokerError: If it does not answer, or refuses us.
    """
    client = f"trial-{os.urandom(6).hex()}"
    topic = topics.upload("trial", client, 0, data=False)
    kept, inbox = topics.status("trial", client), topics.inbox("trial", client)
    got: queue.Queue[ReceivedMessage] = queue.Queue()
    transport = MqttTransport(
        address, client, got.put, lambda _up: None, wait_s=CONNECT_S, once=True
    )
    try:
        transport.subscribe(topic)
        if not _comes_back(transport, topic, SMALL, got, echo_s):
            return Figures(transport.limits(), False, False, None, None)  # noqa: FBT003
        trips = []
        for _ in range(TRIPS):
            began = time.perf_counter()
            _comes_back(transport, topic, SMALL, got, echo_s)
            trips.append(time.perf_counter() - began)
        began, came = time.perf_counter(), 0
        for _ in range(BURST):
            transport.publish(topic, bytes(SMALL + 1))
        while came < BURST and _takes(got, topic, echo_s):
            came += 1
        rate = came / (time.perf_counter() - began)
        transport.publish(kept, b"kept", retain=True)
        transport.subscribe(kept)
        retained = _takes(got, kept, echo_s)
        transport.publish(kept, b"", retain=True)
        transport.subscribe(inbox.replace(client, "+"))
        transport.publish(inbox, bytes(SMALL))
        wildcards = _takes(got, inbox, echo_s)
        latency = 1000 * statistics.median(trips)
        return Figures(transport.limits(), retained, wildcards, latency, rate)
    finally:
        transport.close()


def _takes(got: queue.Queue[ReceivedMessage], topic: str, wait_s: float) -> bool:
    """Wait for a message on a topic; return whether it came."""
    until = time.monotonic() + wait_s
    with contextlib.suppress(queue.Empty):
        while (left := until - time.monotonic()) > 0:
            if got.get(timeout=left).topic == topic:
                return True
    return False


def _comes_back(
    transport: MqttTransport,
    topic: str,
    size: int,
    got: queue.Queue[ReceivedMessage],
    wait_s: float,
) -> bool:
    """Send a message to ourselves; return whether it comes back.

    It is sent once more, should the link be new.
    """
    until = time.monotonic() + wait_s
    for _ in range(2):
        transport.publish(topic, bytes(size))
        if _is_too_large(transport, topic, size):
            return False
        while (left := until - time.monotonic()) > 0:
            try:
                back = got.get(timeout=min(left, wait_s / 2))
            except queue.Empty:
                break
            if len(back.payload) == size:
                return True
    return False


def _is_too_large(transport: MqttTransport, topic: str, size: int) -> bool:
    """Return whether the broker's limit is below a message of this size."""
    return OutgoingMessage(topic, bytes(size)).size > transport.limits().packet
