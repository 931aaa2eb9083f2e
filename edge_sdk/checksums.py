"""`SHA256SUMS` beside files: what each held when written, for who reads it later.

The format is that of ``sha256sum``: ``sha256sum --check SHA256SUMS`` reads it. A file
that is about to be replaced has two lines for a moment, so a crash between the two
writes leaves one of them true. A file that is not listed is not checked: it came from a
version that wrote no sums, or without its folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_sdk.errors import CheckpointError

__all__ = ["SUMS", "check_sum", "file_digest", "lines_with", "sums_of"]

SUMS = "SHA256SUMS"
BLOCK = 1 << 20  # bytes read at a time


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, hex.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sums_of(path: Path) -> set[str]:
    """The digests that a file may have by the list beside it; empty without one."""
    return {digest for digest, name in _lines(path.parent) if name == path.name}


def check_sum(path: Path) -> None:
    """Refuses a file that is no longer what was written.

    Raises:
        CheckpointError: Then.
        OSError: If it cannot be read.
    """
    listed = sums_of(path)
    if listed and file_digest(path) not in listed:
        raise CheckpointError(
            f"{path} is not what was written: its SHA-256 is none that {SUMS} beside "
            "it lists, so the file was damaged or changed since",
            remedy="Restore it from a copy. A run's models are written again by: "
            "flash-coordinator resume RUN.",
        )


def lines_with(path: Path, digest: str, *, alone: bool) -> bytes:
    """The list with a file's digest; files that are gone lose their lines.

    Args:
        path: The file.
        digest: Its digest, hex.
        alone: Whether it has no other digest any more.
    """
    kept = [
        (found, name)
        for found, name in _lines(path.parent)
        if (name != path.name and (path.parent / name).exists())
        or (name == path.name and not alone and found != digest)
    ]
    lines = sorted([*kept, (digest, path.name)], key=lambda line: line[1])
    return "".join(f"{found}  {name}\n" for found, name in lines).encode()


def _lines(folder: Path) -> list[tuple[str, str]]:
    try:
        text = (folder / SUMS).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [(a, b) for a, _, b in (line.partition("  ") for line in text.splitlines())]
