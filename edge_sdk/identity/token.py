"""The enrolment token: all that a device needs to find, and to believe, a coordinator.

``fe1_`` and the URL-safe base 64 of pin, secret, port, host and a check sum: about 85
signs that survive a terminal, a chat and a text file. Whoever holds it before it is
used can enrol in the device's place, so it goes the way of a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from dataclasses import dataclass

from edge_sdk.errors import IdentityError

__all__ = ["PIN_BYTES", "SECRET_BYTES", "Token", "pin_of", "read_token", "write_token"]

PREFIX = "fe1_"
PIN_BYTES = 20  # of the SHA-256 of the authority's certificate: 160 bits
SECRET_BYTES = 16
_FIXED = PIN_BYTES + SECRET_BYTES + 2


@dataclass(frozen=True, slots=True)
class Token:
    """Content of an enrolment token.

    Attributes:
        host: Name or address of the coordinator's machine.
        port: TCP port of its enrolment listener.
        pin: Fingerprint of its authority's certificate, `pin_of`.
        secret: Proves, once, that the operator let this device in.
    """

    host: str
    port: int
    pin: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Token({self.host}:{self.port})"


def pin_of(authority: bytes) -> bytes:
    """The fingerprint of a certificate (DER)."""
    return hashlib.sha256(authority).digest()[:PIN_BYTES]


def write_token(token: Token) -> str:
    """The token as a person copies it.

    Example:
        >>> text = write_token(Token("10.0.0.1", 8884, bytes(20), bytes(16)))
        >>> read_token(text).port, len(text)
        (8884, 71)
    """
    body = token.pin + token.secret + token.port.to_bytes(2, "big")
    body += token.host.encode()
    body += zlib.crc32(body).to_bytes(4, "big")
    return PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("=")


def read_token(text: str) -> Token:
    """The token in a text; spaces and line breaks around or inside do not matter.

    Nor does a device's name before it: a whole line of what the operator has.

    Raises:
        IdentityError: If it is none, or was not copied whole.
    """
    words = text.split()
    if len(words) > 1 and not words[0].startswith(PREFIX):
        words = words[1:]
    joined = "".join(words)
    if not joined.startswith(PREFIX):
        raise _mistyped(f"a token begins with {PREFIX}")
    coded = joined.removeprefix(PREFIX)
    try:
        whole = base64.b64decode(coded + "=" * (-len(coded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _mistyped("it contains a character that no token contains") from error
    body, check = whole[:-4], whole[-4:]
    if len(body) <= _FIXED or zlib.crc32(body).to_bytes(4, "big") != check:
        raise _mistyped("a character is wrong or missing")
    if write_token(_parts(body)) != joined:  # base 64 has spare bits at its end
        raise _mistyped("a character is wrong")
    return _parts(body)


def _parts(body: bytes) -> Token:
    pin, secret = body[:PIN_BYTES], body[PIN_BYTES : _FIXED - 2]
    port = int.from_bytes(body[_FIXED - 2 : _FIXED], "big")
    try:
        return Token(body[_FIXED:].decode(), port, pin, secret)
    except UnicodeDecodeError as error:
        raise _mistyped("its host cannot be read") from error


def _mistyped(why: str) -> IdentityError:
    return IdentityError(
        f"this is not a whole enrolment token: {why}",
        remedy="Copy the whole line that flash-coordinator enroll printed for this "
        "device.",
    )
