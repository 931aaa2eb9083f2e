"""A bundle as one blob, to travel: a msgpack map from relative path to content."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge_sdk.errors import ExportError, RemoteProtocolError
from edge_sdk.wire.codec import unpack

__all__ = ["files_in", "pack_bundle", "unpack_bundle"]

# No leading dot in any part: neither `..` nor a hidden file can be named.
_NAME = re.compile(r"\w[\w.+-]{0,99}(/\w[\w.+-]{0,99}){0,7}", re.ASCII)


def pack_bundle(folder: Path) -> bytes:
    """Every file of a bundle; the same files give the same bytes.

    Raises:
        ExportError: If a file cannot be read.
        RemoteProtocolError: If a file's name could not be unpacked.
    """
    try:
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        raise ExportError(f"{folder} cannot be read: {error}") from error
    packed = msgspec.msgpack.encode(files)
    files_in(packed)
    return packed


def files_in(packed: bytes) -> dict[str, bytes]:
    """Relative path to content; every path stays inside the folder it is put in.

    Raises:
        RemoteProtocolError: If it is no packed bundle.
    """
    files = unpack(packed, dict[str, bytes])
    for name in files:
        if not _NAME.fullmatch(name):
            raise RemoteProtocolError(f"a bundle holds a file named {name[:120]!r}")
    return files


def unpack_bundle(packed: bytes, folder: Path) -> None:
    """Writes the files into a new folder; what they say is not believed yet.

    Whoever may enter the folder may read them: the app is seldom the agent's user.

    Raises:
        RemoteProtocolError: If it is no packed bundle.
        OSError: If the disk refuses.
    """
    files = files_in(packed)
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
