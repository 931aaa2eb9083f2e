"""Two places for a model on the board: one is live, the other takes the next.

``ROOT/a`` and ``ROOT/b`` hold bundles, ``ROOT/current`` is a link to the live one. An
app opens ``ROOT/current`` and never sees half a bundle: one rename replaces the link.
A new bundle goes into the other place, is checked there (digests, signature, golden
example on this board), and only then becomes live; the old one stays for `roll_back`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.errors import ExportError, StateError
from edge_sdk.infer import Bundle
from edge_sdk.infer.bundle import MANIFEST, read_manifest

__all__ = ["Slots", "look", "other", "roll_back", "switch"]

NAMES = ("a", "b")
_CURRENT = "current"
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Slots:
    """What lies where.

    Attributes:
        live: Name of the live slot, or None before the first switch.
        tasks: Slot to "task, round N" of its bundle; only filled slots.
    """

    live: str | None
    tasks: dict[str, str]


def other(live: str | None) -> str:
    """The slot that the next bundle goes into.

    Example:
        >>> other(None), other("a"), other("b")
        ('a', 'b', 'a')
    """
    return NAMES[1] if live == NAMES[0] else NAMES[0]


def look(root: Path) -> Slots:
    """Reads the slots of a folder; one that does not exist is empty.

    Raises:
        StateError: If ``current`` is no link to a slot.
    """
    link = root / _CURRENT
    live = None
    if link.is_symlink():
        live = str(link.readlink())
        if live not in NAMES:
            raise StateError(f"{link} points to {live}, which is no slot")
    elif link.exists():
        raise StateError(f"{link} is not a link", remedy="Name another folder.")
    tasks = {}
    for name in NAMES:
        if (root / name / MANIFEST).is_file():
            manifest = read_manifest(root / name)
            tasks[name] = f"{manifest['task']}, round {manifest['round']}"
    return Slots(live, tasks)


def switch(
    root: Path,
    bundle: Path,
    *,
    trusted: bytes | None = None,
    health: Sequence[str] = (),
) -> str:
    """Puts a bundle into the free slot, checks it there and makes it live.

    Args:
        root: Folder of the slots; made if need be.
        bundle: The new bundle; it is copied.
        trusted: Raw public key that must have signed it.
        health: A command run after the switch, such as one that restarts an app; if it
            fails, the old bundle is live again.

    Returns:
        The slot that is live now.

    Raises:
        ExportError: If the bundle is damaged or its golden example fails here: nothing
            changed. Or if the health command failed: the switch was taken back.
        StateError: If the folder is not one of slots or cannot be written.
    """
    live = look(root).live
    slot = other(live)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as scratch:
            incoming = Path(scratch) / "bundle"
            shutil.copytree(bundle, incoming)
            Bundle(incoming, trusted=trusted).check()
            _sync_tree(incoming)
            if (root / slot).exists():
                (root / slot).replace(Path(scratch) / "old")
            incoming.replace(root / slot)
        _point(root, slot)
    except OSError as error:
        raise StateError(f"{root}: the model could not be switched: {error}") from error
    failure = _failure(health)
    if failure is None:
        return slot
    if live is None:
        (root / _CURRENT).unlink()
    else:
        _point(root, live)
    raise ExportError(
        f"{bundle} was live in slot {slot} for a moment: {failure}",
        remedy=f"Slot {live or 'none'} is live again; mend what the command says.",
    )


def roll_back(root: Path) -> str:
    """Makes the other slot live again, once it has been checked.

    Raises:
        ExportError: If its bundle is damaged or fails here.
        StateError: If there is nothing to go back to.
    """
    slots = look(root)
    slot = other(slots.live)
    if slots.live is None or slot not in slots.tasks:
        raise StateError(f"{root} holds no earlier model to go back to")
    Bundle(root / slot).check()
    _point(root, slot)
    return slot


def _point(root: Path, slot: str) -> None:
    """One rename: whoever opens ``current`` finds the old bundle or the new one."""
    fresh = root / f".{_CURRENT}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(slot)
    fresh.replace(root / _CURRENT)
    _sync(root)


def _failure(command: Sequence[str]) -> str | None:
    """What went wrong with the health command; None if nothing did."""
    if not command:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} did not run: {error}"
    if done.returncode == 0:
        return None
    said = done.stderr.strip() or done.stdout.strip() or "no output"
    last = said.splitlines()[-1]
    return f"{command[0]} ended with code {done.returncode}: {last}"


def _sync_tree(folder: Path) -> None:
    """On the disk before the link: a power cut must not leave an empty model live."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
