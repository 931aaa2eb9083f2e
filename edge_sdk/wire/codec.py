"""Bytes <-> message: the signed envelope, decoded under explicit limits.

An envelope is the msgpack array ``[version, header, body, signature]`` of one int and
three byte strings. The signature covers header and sha256(body) and is verified before
the body is decoded.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.messages import Message

__all__ = [
    "MAX_DATA",
    "MAX_PACKET",
    "Envelope",
    "Header",
    "Sign",
    "Verify",
    "decode",
    "encode",
    "pack",
    "pack_large",
    "tag_of",
    "unpack",
]

VERSION = 1
MAX_PACKET = 96 * 1024  # bytes; the digests of 2 048 chunks with room for the rest
MAX_DATA = 272 * 1024  # bytes of a DATA: a chunk of 256 KiB with room for its envelope

T = TypeVar("T")
_DECODERS: dict[Any, Any] = {}
_ENCODER = msgspec.msgpack.Encoder()
# Views: a chunk is copied once, out of its body.
_ENVELOPE = msgspec.msgpack.Decoder(tuple[int, memoryview, memoryview, bytes])
# Two threads that make a type's first decoder at once end the process: msgspec 0.22
# completes its type under no lock.
_MAKING = threading.Lock()
Sign: TypeAlias = Callable[[bytes], bytes]


class Header(msgspec.Struct, frozen=True):
    """Header of a message: source, destination, type, and the coordinator's epoch.

    `epoch` grows at every start of a coordinator; `boot` differs at every start of the
    sender; `seq` counts its messages since then. `echo` is boot and seq of the latest
    message of the destination that the sender had heard, and `valid_s` the seconds
    after that one was sent for which this one holds: an end that is judged by the
    destination's own monotonic clock, so a board needs no date for it. Both are absent
    where nothing was heard, and in what 0.1.0 says. `key` is the number of the
    coordinator's key that signs; absent for the first.
    """

    type: str
    federation: str
    source: str
    destination: str
    epoch: int
    seq: int
    boot: int
    round_no: int = 0
    # Absent, not null: older bytes stay as they were.
    echo: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    valid_s: int | msgspec.UnsetType = msgspec.UNSET
    key: int | msgspec.UnsetType = msgspec.UNSET


Verify: TypeAlias = Callable[[Header, bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class Envelope:
    """One decoded message, its header, and the packet that it came in."""

    header: Header
    message: Message
    packet: bytes = field(default=b"", compare=False, repr=False)


_TYPES: dict[str, type[msgspec.Struct]] = {
    str(cast("Any", kind).__struct_config__.tag): kind
    for kind in cast("Any", Message).__args__
}


def tag_of(message: Message) -> str:
    """The tag that names a message's type on the wire."""
    return str(cast("Any", message).__struct_config__.tag)


def encode(
    header: Header, message: Message, *, sign: Sign | None = None, packed: bytes = b""
) -> bytes:
    """The envelope's bytes.

    Args:
        header: Of the message.
        message: What is said.
        sign: Signs the bytes that count.
        packed: The message as `pack` makes it, where that was done before.

    Raises:
        LocalProtocolError: If they would pass `MAX_PACKET`, or `MAX_DATA`, or header
            and message disagree on the type.
    """
    if header.type != tag_of(message):
        raise LocalProtocolError(
            f"header says {header.type}, message is {tag_of(message)}"
        )
    head = pack(header)
    body = packed or pack(message)
    signature = sign(_signed(head, body)) if sign else b""
    envelope = msgspec.msgpack.encode([VERSION, head, body, signature])
    if len(envelope) > _most(header.type):
        raise LocalProtocolError(
            f"a {header.type} message of {len(envelope)} bytes passes the "
            f"packet limit of {_most(header.type)}"
        )
    return envelope


def decode(packet: bytes, *, verify: Verify | None = None) -> Envelope:
    """The message in a packet.

    Args:
        packet: What arrived.
        verify: (header, signed bytes, signature) -> whether the signature holds; called
            before the body is decoded.

    Raises:
        RemoteProtocolError: For anything that is not one whole valid envelope.
    """
    if len(packet) > MAX_DATA:
        raise RemoteProtocolError(f"a packet of {len(packet)} bytes passes the limit")
    try:  # nothing but these four is ever built
        version, head, body, signature = _ENVELOPE.decode(packet)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the packet is not an envelope: {error}") from error
    if version != VERSION:
        raise RemoteProtocolError(f"protocol version {version} is not {VERSION}")
    header = unpack(head, Header)
    if len(packet) > _most(header.type):
        raise RemoteProtocolError(
            f"a {header.type[:40]!r} message of {len(packet)} bytes passes the limit"
        )
    if verify is not None and not verify(header, _signed(head, body), signature):
        raise RemoteProtocolError(f"the signature of {header.source} does not hold")
    kind = _TYPES.get(header.type)
    if kind is None:
        raise RemoteProtocolError(f"message type {header.type[:40]!r} is unknown")
    message = unpack(body, kind)
    return Envelope(header, cast("Message", message), packet)


def _most(tag: str) -> int:
    """Bytes of a packet with a message of a type, at most."""
    return MAX_DATA if tag == "data" else MAX_PACKET


def pack(value: msgspec.Struct) -> bytes:
    """A declared type as msgpack, fields by name."""
    # Encoded as it is, a type that leaves fields out has a map header two bytes longer.
    return msgspec.msgpack.encode(msgspec.to_builtins(value, builtin_types=(bytes,)))


def pack_large(value: msgspec.Struct) -> bytes:
    """A declared type as `pack` makes it, for what may not fit into memory.

    Raises:
        MemoryError: Where msgspec 0.22's own `encode`, unable to grow its buffer under
            a device's ceiling, ends the process. A quarter of a MiB takes .16 ms here
            and 2 us there, so that single messages are packed by `pack`.
    """
    packed = bytearray()
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    _ENCODER.encode_into(plain, packed)
    return bytes(packed)


def unpack(data: bytes | memoryview, kind: type[T]) -> T:
    """A declared type from msgpack, validated while it is read.

    Only what the type declares is ever built: 1 MiB of nested arrays of empty maps,
    each within its limit, became 73 MiB of objects when decoded first and checked then.

    Raises:
        RemoteProtocolError: If the bytes are not exactly one valid value of the type.
    """
    try:
        decoder = _DECODERS.get(kind)
        if decoder is None:
            with _MAKING:
                decoder = _DECODERS.setdefault(kind, msgspec.msgpack.Decoder(kind))
        return cast("T", decoder.decode(data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        config = getattr(kind, "__struct_config__", None)  # a union has none
        name = getattr(config, "tag", None) or getattr(kind, "__name__", "message")
        raise RemoteProtocolError(f"no valid {_words(str(name))}: {error}") from error


def _words(name: str) -> str:
    """A type's tag or name as words: ``task-ack``, ``_Structure``, ``JournalRecord``.

    Example:
        >>> [_words(name) for name in ("values", "_Structure", "JournalRecord")]
        ['values', 'structure', 'journal record']
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.lstrip("_")).lower()


def _signed(head: bytes | memoryview, body: bytes | memoryview) -> bytes:
    return bytes(head) + hashlib.sha256(body).digest()
