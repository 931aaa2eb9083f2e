"""MQTT packets in a stream of bytes: where each ends, and what a PUBLISH brings.

paho reads a packet by four system calls and makes objects with locks and tables of
properties for each. That took a third of a coordinator's processor time for an update.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from paho.mqtt.exception import MalformedPacket

__all__ = [
    "PUBLISH",
    "PUBLISH_HEAD",
    "PublishPacket",
    "acknowledgements",
    "body_of",
    "join_first",
    "published",
]

PUBLISH, PUBACK = 0x30, 0x40  # the upper half of a packet's first byte
PUBLISH_HEAD = 2 + 65_535 + 2  # bytes at most of topic and packet identifier
LENGTH_BYTES = 4  # of a length, at most
JOINED = 64 * 1024  # bytes; packets that go out by one call to the system


class PublishPacket(NamedTuple):
    """Content of a PUBLISH.

    Attributes:
        topic: Where it was published.
        payload: What was.
        mid: Packet identifier, to be acknowledged; 0 for QoS 0.
    """

    topic: str
    payload: bytes
    mid: int


def body_of(stream: bytearray, start: int) -> tuple[int, int] | None:
    r"""Begin and end of the body of the packet at `start`; None if more must come.

    The end may lie beyond what has come so far.

    Raises:
        MalformedPacket: If its length is written in more than four bytes.

    Example:
        >>> body_of(bytearray(b"\xd0\x00\x40\x02\x00"), 0)
        (2, 2)
        >>> body_of(bytearray(b"\xd0\x00\x40\x02\x00"), 2)
        (4, 6)
        >>> body_of(bytearray(b"\x30\x80"), 0) is None
        True
    """
    found = _number(stream, start + 1)
    return None if found is None else (found[1], found[1] + found[0])


def published(
    stream: bytearray, first: int, begin: int, end: int, *, properties: bool
) -> PublishPacket:
    """Content of a PUBLISH of QoS 0 or 1.

    Args:
        stream: The bytes.
        first: The packet's first byte.
        begin: Where its body begins.
        end: Where its body ends.
        properties: Whether it has properties, as in MQTT 5; none of them is needed.

    Raises:
        MalformedPacket: If it is no such packet.
    """
    at = begin + 2
    at += int.from_bytes(stream[begin:at], "big")
    try:
        topic = stream[begin + 2 : at].decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket("the topic of a PUBLISH is not UTF-8") from error
    mid = 0
    if first & 0x06:
        mid = int.from_bytes(stream[at : at + 2], "big")
        at += 2
    if properties:
        size, at = _number(stream, at) or (end, end)
        at += size
    if at > end or (first & 0x06 and not mid):
        raise MalformedPacket("a PUBLISH ends before its payload")
    with memoryview(stream) as view:
        return PublishPacket(topic, bytes(view[at:end]), mid)


def acknowledgements(mids: list[int]) -> Any:
    """PUBACK packets, one after the other, as paho keeps what waits to be sent.

    Example:
        >>> acknowledgements([1, 258])["packet"].hex(" ", 4)
        '40020001 40020102'
    """
    packet = b"".join([b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids])
    out = {"command": PUBACK, "mid": mids[-1], "qos": 1, "info": None}
    return out | {"pos": 0, "to_process": len(packet), "packet": packet}


def join_first(waiting: deque[Any]) -> None:
    """Make one packet of the first that wait, if nothing follows from their sending.

    paho sends each by a call of its own. What it does after a message that nobody
    acknowledges, or a DISCONNECT, it still does after that one alone.
    """
    joined, size = list[dict[str, Any]](), 0
    while waiting and _is_silent(waiting[0]):
        size += len(waiting[0]["packet"])
        if joined and size > JOINED:
            break
        joined.append(waiting.popleft())
    if len(joined) > 1:
        packet = b"".join([one["packet"] for one in joined])
        joined[-1].update(packet=packet, to_process=len(packet))
    if joined:
        waiting.appendleft(joined[-1])


def _is_silent(packet: dict[str, Any]) -> bool:
    """Return whether a packet is whole, and paho does nothing once it is sent."""
    kind = packet["command"] & 0xF0
    silent = kind == PUBACK or (kind == PUBLISH and packet["qos"] > 0)
    return silent and not packet["pos"]


def _number(stream: bytearray, at: int) -> tuple[int, int] | None:
    """A number in 7-bit bytes, and where it ends; None if it has not come whole."""
    found = 0
    for place in range(LENGTH_BYTES):
        if at + place >= len(stream):
            return None
        byte = stream[at + place]
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return found, at + place + 1
    raise MalformedPacket("a length has more than four bytes")
