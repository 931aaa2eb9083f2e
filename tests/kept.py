"""What may be found in folders and command lines of a run and its devices, by whom."""

from __future__ import annotations

import base64
import contextlib
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----\n(.*?)\n-----END", re.DOTALL)


def open_to_others(*folders: Path) -> list[str]:
    """Folders and files that group or others may read or write."""
    found = []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink() and mode & 0o077:
                found.append(f"{path} {mode:o}")
    return found


def private_keys(*folders: Path) -> set[bytes]:
    """The body of every private key in PEM that lies there."""
    files = (p for folder in folders for p in folder.rglob("*") if p.is_file())
    return {body for path in files for body in KEY.findall(path.read_bytes())}


def leaks(
    folders: Iterable[Path], secrets: Mapping[str, bytes], homes: Iterable[str]
) -> list[str]:
    """Where a secret lies that is not its home.

    Args:
        folders: Where to look, in every file.
        secrets: What is secret, by its name.
        homes: Names of files that hold secrets on purpose.
    """
    found = []
    for path in (p for folder in folders for p in folder.rglob("*") if p.is_file()):
        if path.name in homes:
            continue
        content = path.read_bytes()
        for name, secret in secrets.items():
            if secret in content or base64.b64encode(secret) in content:
                found.append(f"{name} in {path}")
    return found


def command_lines(*pids: int) -> str:
    """Command lines of processes and of all they have started, as `ps` has them."""
    found = []
    for pid in pids:
        own = psutil.Process(pid)
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                found.append(" ".join(process.cmdline()))
    return "\n".join(found)
