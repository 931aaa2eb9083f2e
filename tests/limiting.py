"""A broker with limits: a proxy before mosquitto that counts and answers breaches.

It reads every MQTT packet of both directions (3.1.1 and 5.0). What goes beyond a limit
is counted by its kind, and then does what that broker is known to do: the link is
closed, the message is dropped, or a DISCONNECT says why.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from typing_extensions import Self

from edge_sdk.transport.limits import NO_LIMIT, PROFILES, BrokerLimits

__all__ = ["ANSWERS", "LimitingBroker"]

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE = 1, 2, 3, 4, 8, 10
# What a breach comes to.
ANSWERS = {
    "mosquitto": "close",
    "aws-iot": "close",
    "event-grid": "close",
    "emqx": "drop",
    "hivemq": "disconnect",
    "cloudflare": "disconnect",
}
BURST_S = 2.0  # of a rate that may come at once: a broker's bucket, a busy machine


class EndedError(Exception):
    """The broker ends the link."""


@dataclass
class _Bucket:
    rate: float
    level: float = 0.0
    at: float = 0.0

    def takes(self, cost: float) -> bool:
        now = time.monotonic()
        self.level = max(0.0, self.level - (now - self.at) * self.rate) + cost
        self.at = now
        return self.level <= self.rate * BURST_S


@dataclass
class _Client:
    """One link through the proxy."""

    messages: _Bucket
    bytes: _Bucket
    five: bool = False
    name: str = ""
    filters: set[str] = field(default_factory=set)
    unacknowledged: set[int] = field(default_factory=set)


class LimitingBroker:
    """Listens, forwards to a real broker, enforces limits.

    Args:
        port: Where mosquitto listens on 127.0.0.1.
        limits: What to enforce.
        answer: What a breach comes to; as that broker's, if not given.
        wills: Whether a CONNECT may have a will; ``refuse`` answers one that has.

    Attributes:
        port: Where it listens.
        breaches: Count by kind.
        told: A line for each of the first breaches.
        first_connect: Monotonic seconds of the first CONNECT, by client id.
        last_packet: Monotonic seconds of the last packet of each client.
        published: Messages by client id.
        bytes: Their bytes.
        most: The most that was seen of each thing.
    """

    def __init__(
        self, port: int, limits: BrokerLimits, answer: str = "", *, wills: bool = True
    ) -> None:
        self._to, self.limits, self._wills = port, limits, wills
        self._answer = answer or ANSWERS.get(limits.name, "close")
        self.breaches: Counter[str] = Counter()
        self.told: list[str] = []
        self.most: Counter[str] = Counter()
        self.packets = 0
        self.first_connect: dict[str, float] = {}
        self.last_packet: dict[str, float] = {}
        self.published: Counter[str] = Counter()  # messages of each client
        self.bytes: Counter[str] = Counter()  # of these
        self._retained: set[str] = set()
        self._connects: dict[str, float] = {}
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Ends every link, as a network does."""
        with self._lock:
            links, self._open = self._open, []
        for link in links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- links -------------------------------------------------------------------------

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._server.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the broker is down for now
                    link.close()
                    continue
                for one in (link, broker):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open += [link, broker]
                limits = self.limits
                client = _Client(
                    _Bucket(limits.publishes_per_s), _Bucket(limits.bytes_per_s)
                )
                for way in ((link, broker, True), (broker, link, False)):
                    threading.Thread(
                        target=self._pass, args=(*way, client), daemon=True
                    ).start()

    def _pass(
        self, source: socket.socket, to: socket.socket, up: bool, client: _Client
    ) -> None:
        """Forwards packets of one direction until a link ends, or is ended."""
        with (
            contextlib.suppress(OSError, EndedError),
            source.makefile("rb") as stream,
        ):
            while True:
                head = stream.read(1)
                if not head:
                    break
                raw, length = _length(stream)
                body = stream.read(length)
                if len(body) < length:
                    break
                packet = head + raw + body
                if up:
                    kinds = self._breaks(packet, head[0], body, client)
                    if kinds and self._refuse(kinds, source, client):
                        continue
                elif head[0] >> 4 == PUBACK:
                    with self._lock:
                        number = int.from_bytes(body[:2], "big")
                        client.unacknowledged.discard(number)
                to.sendall(packet)
        for one in (source, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _refuse(self, kinds: list[str], link: socket.socket, client: _Client) -> bool:
        """Does what the broker does; True if the packet is only dropped."""
        with self._lock:
            self.breaches.update(kind.split(":")[0] for kind in kinds)
            if len(self.told) < 20:
                self.told.append(f"{client.name}: {'; '.join(kinds)}")
        if self._answer == "drop" and not any("CONNECT" in kind for kind in kinds):
            return True
        if self._answer == "refuse" and any("CONNECT" in kind for kind in kinds):
            refused = b"\x20\x03\x00\x87\x00" if client.five else b"\x20\x02\x00\x05"
            link.sendall(refused)
        if self._answer == "disconnect" and client.five:
            link.sendall(bytes([0xE0, 2, _reason(kinds[0]), 0]))
        raise EndedError

    # -- packets -----------------------------------------------------------------------

    def _breaks(
        self, packet: bytes, head: int, body: bytes, client: _Client
    ) -> list[str]:
        """The limits that a client's packet goes beyond."""
        limits = self.limits
        with self._lock:
            self.packets += 1
            found = self._above("packet", len(packet), limits.packet)
            kind = head >> 4
            self.last_packet[client.name] = time.monotonic()
            if kind == CONNECT:
                found += self._connect(body, client)
            elif kind == PUBLISH:
                self.published[client.name] += 1
                self.bytes[client.name] += len(packet)
                found += self._publish(packet, head, body, client)
            elif kind == SUBSCRIBE:
                filters = _filters(body, client.five, options=True)
                client.filters |= set(filters)
                found += self._above("filters", len(filters), limits.filters)
                count = len(client.filters)
                found += self._above("subscriptions", count, limits.subscriptions)
                if not limits.wildcards and any(set(f) & set("+#") for f in filters):
                    found.append(f"wildcards: {filters}")
            elif kind == UNSUBSCRIBE:
                filters = _filters(body, client.five, options=False)
                client.filters -= set(filters)
                found += self._above("filters", len(filters), limits.filters)
            return found

    def _above(self, what: str, value: int, limit: int) -> list[str]:
        self.most[what] = max(self.most[what], value)
        return [f"{what}: {value} above {limit}"] if value > limit else []

    def _connect(self, body: bytes, client: _Client) -> list[str]:
        limits, found = self.limits, []
        client.five, flags = body[6] == 5, body[7]
        keepalive = int.from_bytes(body[8:10], "big")
        at = 10
        if client.five:
            size, at = _varint(body, at)
            at += size
        length = int.from_bytes(body[at : at + 2], "big")
        client.name = body[at + 2 : at + 2 + length].decode()
        found += self._above("client_id", length, limits.client_id)
        if limits.keepalive_s < 65_535 and not 0 < keepalive <= limits.keepalive_s:
            found.append(f"CONNECT keepalive: {keepalive} s")
        if flags & 4:
            if not self._wills:
                found.append("CONNECT will")
            if flags & 0x20 and not limits.retained:
                found.append("CONNECT retained will")
            if flags >> 3 & 3 > limits.qos:
                found.append("CONNECT will of QoS 1")
        now = time.monotonic()
        gap_s = now - self._connects.get(client.name, -1e9)
        if gap_s * limits.connects_per_s < 1:
            found.append(f"CONNECT rate: {gap_s:.2f} s after the last")
        self._connects[client.name] = now
        self.first_connect.setdefault(client.name, now)
        return found

    def _publish(
        self, packet: bytes, head: int, body: bytes, client: _Client
    ) -> list[str]:
        limits = self.limits
        qos, keep = head >> 1 & 3, head & 1
        size = int.from_bytes(body[:2], "big")
        topic, at = body[2 : 2 + size].decode(), 2 + size
        if qos:
            client.unacknowledged.add(int.from_bytes(body[at : at + 2], "big"))
            at += 2
        if client.five:
            length, at = _varint(body, at)
            at += length
        found = self._above("topic_bytes", size, limits.topic_bytes)
        found += self._above("topic_slashes", topic.count("/"), limits.topic_slashes)
        found += self._above("qos", qos, limits.qos)
        flying = len(client.unacknowledged)
        found += self._above("inflight", flying, max(limits.inflight, 1))
        if keep:
            if len(body) == at:
                self._retained.discard(topic)
            else:
                self._retained.add(topic)
                found += self._above("retained", len(packet), limits.retained)
            count = len(self._retained)
            found += self._above("retained_messages", count, limits.retained_messages)
        if limits.publishes_per_s < NO_LIMIT and not client.messages.takes(1):
            found.append(f"publishes_per_s: {client.messages.level:.1f} at once")
        if limits.bytes_per_s < NO_LIMIT and not client.bytes.takes(len(packet)):
            found.append(f"bytes_per_s: {client.bytes.level:.0f} at once")
        return found


def _length(stream: IO[bytes]) -> tuple[bytes, int]:
    """Bytes of a packet's length, and the length."""
    raw, length = b"", 0
    while len(raw) < 4:
        byte = stream.read(1)
        if not byte:
            raise EndedError
        length |= (byte[0] & 127) << (7 * len(raw))
        raw += byte
        if byte[0] < 128:
            break
    return raw, length


def _reason(kind: str) -> int:
    """Reason code of MQTT 5.0, section 2.4."""
    codes = {"packet": 0x95, "publishes_per_s": 0x96, "bytes_per_s": 0x96}
    codes |= {"retained": 0x9A, "qos": 0x9B, "wildcards": 0xA2, "inflight": 0x93}
    return codes.get(kind.split(":", maxsplit=1)[0], 0x97)


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value, place = 0, 0
    while True:
        value |= (body[at] & 127) << place
        at, place = at + 1, place + 7
        if body[at - 1] < 128:
            return value, at


def _filters(body: bytes, five: bool, *, options: bool) -> list[str]:
    at, found = 2, []
    if five:
        size, at = _varint(body, at)
        at += size
    while at < len(body):
        size = int.from_bytes(body[at : at + 2], "big")
        found.append(body[at + 2 : at + 2 + size].decode())
        at += 2 + size + options
    return found


assert set(ANSWERS) == set(PROFILES)
