"""The digest of a file, which its own metadata carries: any flipped bit shows.

It is the SHA-256 of all bytes with its own digits as zeros. A file of before, or one
whose metadata another tool rewrote, has none.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edge_sdk.errors import ExportError

__all__ = ["BLANK", "STAMP", "check_stamp", "stamped"]

STAMP = "digest"  # its key among a file's facts
_MARK = "sha256 with zeros here: "
BLANK = _MARK + 64 * "0"
_PLACE = re.compile(re.escape(_MARK.encode()) + b".{64}", re.DOTALL)


def stamped(content: bytes) -> bytes:
    """The file's bytes with their digest where its metadata has `BLANK`."""
    at = content.find(BLANK.encode())
    return content if at < 0 else _with_digest(content, at)


def check_stamp(path: Path, content: bytes) -> bool:
    """Compare a digest that the bytes carry with that of the bytes; False without one.

    Raises:
        ExportError: If it is another.
    """
    places = [found.start() for found in _PLACE.finditer(content)]
    if places and all(_with_digest(content, at) != content for at in places):
        raise ExportError(
            f"{path} is damaged or was changed: the digest in it is not that of its "
            "bytes",
            remedy="Copy it again, or build it again.",
        )
    return bool(places)


def _with_digest(content: bytes, at: int) -> bytes:
    head, tail = content[:at], content[at + len(BLANK) :]
    digest = hashlib.sha256(head)
    digest.update(BLANK.encode())
    digest.update(tail)
    return head + (_MARK + digest.hexdigest()).encode() + tail
