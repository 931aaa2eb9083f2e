"""Two slots for models on the board: one is live, the other takes the next.

``ROOT/a`` and ``ROOT/b`` hold bundles, ``ROOT/current`` is a link to the live one. An
app opens ``ROOT/current`` and never sees half a bundle: one rename replaces the link.
A new bundle goes into the other place, is checked there (digests, signature, golden
example on this board), and only then becomes live; the old one stays for `roll_back`.

While a test or a health command decides, ``ROOT/.trial`` says what was live before.
Where it is found with nobody at work, the power went: `recover` takes the switch back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from edge_sdk.checkpoint import replace_file, sync
from edge_sdk.checksums import file_digest
from edge_sdk.deploy.bound_command import run_leashed
from edge_sdk.errors import CheckpointError, ExportError, StateError
from edge_sdk.infer import Bundle
from edge_sdk.infer.bundle import MANIFEST, read_manifest
from edge_sdk.infer.own import OWN

if os.name == "posix":
    import fcntl

__all__ = ["Slots", "install", "look", "other", "recover", "roll_back", "switch"]

log = logging.getLogger(__name__)

NAMES = ("a", "b")
_CURRENT, _TRIAL = "current", ".trial"
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Slots:
    """Content of the two slots, and which of them is live.

    Attributes:
        live: Name of the live slot, or None before the first switch.
        tasks: Slot to "task, round N" of its bundle; only filled slots.
        digests: Slot to the SHA-256 of its bundle's manifest, hex.
    """

    live: str | None
    tasks: dict[str, str]
    digests: dict[str, str]


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
        ExportError: If a slot's manifest is damaged.
        StateError: If ``current`` is no link to a slot.
    """
    link = root / _CURRENT
    live = None
    if link.is_symlink():
        live = str(link.readlink())
        if live not in NAMES:
            raise StateError(f"{link} points to {live}, which is not a slot")
    elif link.exists():
        raise StateError(f"{link} is not a link", remedy="Name another folder.")
    tasks, digests = {}, {}
    for name in NAMES:
        path = root / name / MANIFEST
        if path.is_file():
            manifest = read_manifest(root / name)
            tasks[name] = f"{manifest['task']}, round {manifest['round']}"
            digests[name] = file_digest(path)
    return Slots(live, tasks, digests)


def switch(
    root: Path,
    bundle: Path,
    *,
    trusted: bytes | None = None,
    health: Sequence[str] = (),
) -> str:
    """`install` of a copy of a bundle's folder."""
    return install(
        root,
        lambda folder: shutil.copytree(bundle, folder),
        name=str(bundle),
        trusted=trusted,
        health=health,
    )


def install(
    root: Path,
    fill: Callable[[Path], object],
    *,
    name: str,
    trusted: bytes | None = None,
    health: Sequence[str] = (),
    home: Path | None = None,
    tag: str = "",
    own: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    test: Callable[[str, Path, Path | None], None] | None = None,
) -> str:
    """Puts a bundle into the free slot, checks it there and makes it live.

    Args:
        root: Folder of the slots; made if need be.
        fill: Makes the folder it is given and writes the new bundle into it.
        name: What to call the bundle in errors.
        trusted: Raw public key that must have signed it.
        health: A command run after the switch, such as one that restarts an app; if it
            fails, the old bundle is live again.
        home: Folder that `health` runs in; the current one if not given.
        tag: What `recover` gives back, should the power go in `test` or `health`.
        own: This device's own values of personal entries; a model without a place for
            them is made live as it was delivered.
        test: (name, new bundle's folder, live one's or None), before the switch; an
            `EdgeError` that it raises leaves everything as it was.

    Returns:
        The slot that is live now.

    Raises:
        ExportError: If the bundle is damaged or its golden example fails here: nothing
            changed. Or if the health command failed: the switch was taken back.
        StateError: If the folder is not one of slots, cannot be written, or somebody
            else switches there.
    """
    with _alone(root):
        _take_back(root)
        live = look(root).live
        slot = other(live)
        try:
            with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as scratch:
                incoming = Path(scratch) / "bundle"
                fill(incoming)
                (incoming / OWN).unlink(missing_ok=True)  # nobody has signed it
                bundle = Bundle(incoming, trusted=trusted)
                bundle.check()
                if own:
                    _keep_own(bundle, own)
                if test is not None or health:
                    note = json.dumps({"before": live, "tag": tag})
                    replace_file(root / _TRIAL, note.encode())
                if test is not None:
                    try:
                        test(name, incoming, root / live if live else None)
                    except BaseException:  # its trial has ended
                        _take_back(root)
                        raise
                _sync_tree(incoming)
                if (root / slot).exists():
                    (root / slot).replace(Path(scratch) / "old")
                incoming.replace(root / slot)
            _point(root, slot)
        except (OSError, CheckpointError) as error:
            why = f"{root}: the model could not be switched: {error}"
            raise StateError(why) from error
        failure = _failure(health, home)
        if failure is None:
            (root / _TRIAL).unlink(missing_ok=True)
            return slot
        _take_back(root)
    raise ExportError(
        f"{name} was live in slot {slot} for a moment: {failure}",
        remedy=f"Slot {live or 'none'} is live again; correct what the command "
        f"reports.",
    )


def recover(root: Path) -> str | None:
    """Takes back a switch whose health command never ended, and clears what was cut.

    Returns:
        The tag of that switch; None if there was none, or somebody is at work.
    """
    if not root.is_dir():
        return None
    try:
        with _alone(root):
            for scratch in root.glob(".incoming-*"):
                shutil.rmtree(scratch, ignore_errors=True)
            return _take_back(root)
    except StateError:
        return None


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
    with _alone(root):
        Bundle(root / slot).check()
        (root / _TRIAL).unlink(missing_ok=True)
        _point(root, slot)
    return slot


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One at a time: a command by hand, or the agent with what was delivered."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise StateError(f"{root} cannot be used: {error}") from error
    try:
        if os.name == "posix":
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StateError(
            f"another process switches the model in {root}", remedy="Wait for its end."
        ) from error
    finally:
        os.close(handle)


def _keep_own(bundle: Bundle, own: Mapping[str, NDArray[Any]]) -> None:
    try:
        bundle.keep_own(own)
    except ExportError as error:
        log.warning("live as delivered, without what is personal here: %s", error)


def _take_back(root: Path) -> str | None:
    """Points back to what was live before a trial; its tag, None without one."""
    try:
        note = json.loads((root / _TRIAL).read_bytes())
    except (OSError, ValueError):  # written whole or not at all
        return None
    if note["before"] is None:
        (root / _CURRENT).unlink(missing_ok=True)
    else:
        _point(root, note["before"])
    (root / _TRIAL).unlink()
    return str(note["tag"])


def _point(root: Path, slot: str) -> None:
    """One rename: whoever opens ``current`` finds the old bundle or the new one."""
    fresh = root / f".{_CURRENT}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(slot)
    fresh.replace(root / _CURRENT)
    sync(root)


def _failure(command: Sequence[str], home: Path | None) -> str | None:
    """Run the health command; the reason why it failed, or None.

    It dies with this process: a check that outlived its agent would judge a switch that
    was taken back long ago, or restart an app for it.
    """
    if not command:
        return None
    try:
        code, said = run_leashed(command, timeout_s=_TIMEOUT_S, cwd=home)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} did not run: {error}"
    if code == 0:
        return None
    return f"{command[0]} ended with code {code}: {said or 'no output'}"


def _sync_tree(folder: Path) -> None:
    """Sync a slot to disk before the link: a power cut must not empty a live model."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
