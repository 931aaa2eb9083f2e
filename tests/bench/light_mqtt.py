"""A small MQTT 3.1.1 client on asyncio: a thousand of them fit one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = (
    0x20,
    0x30,
    0x40,
    0x90,
    0xB0,
    0xD0,
)


class LightMqtt(asyncio.Protocol):
    """One connection: QoS 1 both ways, no retries; the protocol above asks again.

    Args:
        client_id: The MQTT client id.
        on_link: Called when the broker has taken us in.
        on_message: Called with topic and payload.
        will: Topic and payload that the broker says, retained, if we vanish.
    """

    def __init__(
        self,
        client_id: str,
        on_link: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        will: tuple[str, bytes],
    ) -> None:
        self._id, self._will = client_id, will
        self._on_link, self._on_message = on_link, on_message
        self._buffer = bytearray()
        self._packet = 0
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        topic, payload = self._will
        body = b"\x00\x04MQTT\x04\x2e\x02\x58"  # clean, will of QoS 1 retained; 600 s
        body += _text(self._id) + _text(topic) + len(payload).to_bytes(2, "big")
        self._send(0x10, body + payload)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while (found := _length(buffer, start)) is not None:
            head, size = found
            end = start + head + size
            if len(buffer) < end:
                break
            self._take(buffer[start], bytes(buffer[start + head : end]))
            start = end
        if start:
            del buffer[:start]

    def _take(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == PUBLISH:
            size = int.from_bytes(body[:2], "big")
            topic, at = body[2 : 2 + size].decode(), 2 + size
            if first & 0x06:
                self._send(0x40, body[at : at + 2])
                at += 2
            self._on_message(topic, body[at:])
        elif kind == CONNACK:
            assert body[1] == 0, f"the broker refused {self._id}: {body[1]}"
            self._on_link()

    def subscribe(self, *topics: str) -> None:
        filters = b"".join(_text(topic) + b"\x01" for topic in topics)
        self._send(0x82, self._next() + filters)

    def unsubscribe(self, *topics: str) -> None:
        self._send(0xA2, self._next() + b"".join(map(_text, topics)))

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        packet = self._next() if qos else b""
        self._send(0x30 | qos << 1 | int(retain), _text(topic), packet, payload)

    def close(self) -> None:
        if self._transport is not None and not self.lost:
            self._send(0xE0, b"")
            self._transport.close()

    def _next(self) -> bytes:
        self._packet = self._packet % 0xFFFF + 1
        return self._packet.to_bytes(2, "big")

    def _send(self, first: int, *body: bytes) -> None:
        """Sends a packet; what it consists of is copied once."""
        assert self._transport is not None
        size, head = sum(map(len, body)), bytearray([first])
        while True:
            size, digit = divmod(size, 128)
            head.append(digit | (0x80 if size else 0))
            if not size:
                break
        self._transport.write(b"".join((head, *body)))


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _length(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Bytes of the fixed header at `start`, and of what follows; None if cut short."""
    size = shift = 0
    for at in range(start + 1, min(start + 5, len(buffer))):
        size |= (buffer[at] & 0x7F) << shift
        if buffer[at] < 0x80:
            return at - start + 1, size
        shift += 7
    return None
