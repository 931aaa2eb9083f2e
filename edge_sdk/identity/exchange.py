"""Messages of an enrolment: four types in frames on a TLS stream.

A frame is its length in four bytes, big-endian, and one msgpack value. The first
question, for the authority's certificate, is asked of anybody; what answers is believed
by the pin in the token. The second goes to whom that authority certified.
"""

from __future__ import annotations

import socket
from typing import Annotated, TypeAlias, cast

from msgspec import Meta, Struct

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.codec import pack, unpack

__all__ = [
    "Answer",
    "AskAuthority",
    "AuthorityIs",
    "Enrol",
    "Enrolled",
    "Question",
    "Refused",
    "ask",
    "body_size",
    "frame_of",
    "receive",
    "send",
    "unpack_question",
]

MAX_FRAME = 32 * 1024
Der: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=8192)]


class AskAuthority(Struct, frozen=True, tag="ask-authority"):
    """Device: which authority is this?"""


class Enrol(Struct, frozen=True, tag="enrol"):
    """Device: the token's secret, and a signing request for the key made here."""

    secret: Annotated[bytes, Meta(max_length=64)]
    csr: Annotated[bytes, Meta(min_length=1, max_length=4096)]


class AuthorityIs(Struct, frozen=True, tag="authority"):
    """Coordinator: the authority's certificate."""

    certificate: Der


class Enrolled(Struct, frozen=True, tag="enrolled"):
    """Coordinator: who the device is now, and whom it may believe.

    Attributes:
        name: The device's name.
        federation: The federation's.
        certificate: The device's, DER.
        key: The coordinator's Ed25519 key, raw.
        key_number: How often it was replaced.
        broker: URL of the broker.
        broker_authority: PEM of the authority of a broker that is not ours; or empty.
        task: The run's task.
    """

    name: str
    federation: str
    certificate: Der
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    key_number: Annotated[int, Meta(ge=0)]
    broker: Annotated[str, Meta(max_length=300)]
    broker_authority: Annotated[bytes, Meta(max_length=16384)]
    task: Annotated[str, Meta(max_length=300)]


class Refused(Struct, frozen=True, tag="refused"):
    """Coordinator: no, and what to do."""

    why: Annotated[str, Meta(max_length=500)]
    remedy: Annotated[str, Meta(max_length=500)]


Question: TypeAlias = AskAuthority | Enrol
Answer: TypeAlias = AuthorityIs | Enrolled | Refused


def frame_of(message: Question | Answer) -> bytes:
    """A message as one frame."""
    body = pack(message)
    return len(body).to_bytes(4, "big") + body


def body_size(head: bytes) -> int:
    """Bytes that follow the four of a frame's head.

    Raises:
        RemoteProtocolError: If they would be too many.
    """
    size = int.from_bytes(head, "big")
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {size} bytes passes the limit")
    return size


def send(link: socket.socket, message: Question | Answer) -> None:
    """Sends one frame."""
    link.sendall(frame_of(message))


def receive(link: socket.socket) -> bytes:
    """One frame's bytes, for `edge_sdk.wire.codec.unpack`.

    Raises:
        RemoteProtocolError: If it is too long or ends early.
        OSError: If the link breaks.
    """
    return _exactly(link, body_size(_exactly(link, 4)))


def _exactly(link: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = link.recv(size - len(got))
        if not more:
            raise RemoteProtocolError("the frame ends early")
        got += more
    return got


def unpack_question(frame: bytes) -> Question:
    """The question in a frame.

    Raises:
        RemoteProtocolError: If it is none.
    """
    return cast("Question", unpack(frame, cast("type[object]", Question)))


def ask(link: socket.socket, question: Question) -> Answer:
    """Sends a question and reads its answer.

    Raises:
        RemoteProtocolError: If what comes is no answer.
        OSError: If the link breaks.
    """
    send(link, question)
    return cast("Answer", unpack(receive(link), cast("type[object]", Answer)))
