r"""The hash chain of a run's log, and what the coordinator signs of it.

A record is one line of JSON, keys sorted; its bytes are what is hashed, so a reader
needs no JSON of ours to follow the chain::

    head(n) = SHA-256("flash-edge log 1\n" + head(n - 1) + SHA-256(record n))

and head(-1) is 32 zero bytes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from edge_sdk.json_text import to_json

__all__ = ["FIRST", "head_text", "link", "record_line", "statement_text"]

FIRST = bytes(32)
_LINK = b"flash-edge log 1\n"
_HEAD = b"flash-edge log head 1\n"
_STATEMENT = b"flash-edge proof 1\n"


def record_line(fields: dict[str, Any]) -> bytes:
    """A record or leaf as the bytes that are hashed: one line of ASCII JSON.

    Example:
        >>> record_line({"seq": 1, "kind": "start"})
        b'{"kind": "start", "seq": 1}'
    """
    return to_json(fields, sort_keys=True).encode("ascii")


def link(before: bytes, record: bytes) -> bytes:
    """The head of a log after one more record, 32 bytes."""
    return sha256(_LINK + before + sha256(record).digest()).digest()


def head_text(federation: str, seq: int, head: bytes) -> bytes:
    """Bytes that the coordinator signs for the head after a record."""
    return _HEAD + f"{federation}\n{seq}\n".encode() + head


def statement_text(content: bytes) -> bytes:
    """Bytes that the coordinator signs for a whole proof, by its table of contents."""
    return _STATEMENT + sha256(content).digest()
