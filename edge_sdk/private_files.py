"""A run's and a device's folders are their owner's alone, whatever the umask was.

They hold keys, a broker's password, and updates that say something about private
examples. The folder's mode closes all of it at once; the files' own modes hold where a
folder is opened later, or copied with its modes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_sdk.errors import StateError

__all__ = ["keep_private", "make_private", "private_file"]

log = logging.getLogger(__name__)
OTHERS = 0o077  # what group and others may do


def keep_private(folder: Path, own: Iterable[str], *, shut: bool = True) -> None:
    """Make a folder and all that it holds readable by this process's user alone.

    One line says so if anything could be read by others. What cannot be changed, as on
    a disk without modes, is said, too. What is another user's is left to him.

    Args:
        folder: The folder; made if it is missing.
        own: Patterns of names in it that are ours, with all that lies below them.
        shut: Whether the folder itself is closed if it was there before.

    Raises:
        StateError: If the folder cannot be made.
    """
    os.umask(OTHERS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{folder} cannot be made: {error.strerror}",
            remedy="Name a folder that you can write, on a disk with room.",
        ) from error
    found = [*_below(folder, own)]
    open_ones = [path for path in found if _is_open(path)]
    if shut and _may_be_shut(folder) and _is_open(folder):
        open_ones.append(folder)
    kept_open = [path for path in open_ones if not _shut(path)]
    if len(open_ones) > len(kept_open):
        log.warning(
            "%s: other users could read %d files and folders of it; now they cannot",
            *(folder, len(open_ones) - len(kept_open)),
        )
    if kept_open:
        log.warning(
            "%s can be read by other users and its mode cannot be changed; move the "
            "folder to a disk that supports file modes",
            kept_open[0],
        )


def make_private(folder: Path) -> None:
    """Makes a folder that only its user can enter; leaves one that is there alone.

    Raises:
        OSError: If it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def private_file(path: Path) -> None:
    """Makes an empty file that only its user can read, unless it is there.

    For files that a library makes with the umask's mode, as SQLite does; the journals
    beside a database take its mode.

    Raises:
        OSError: If it cannot be made.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _below(folder: Path, own: Iterable[str]) -> Iterator[Path]:
    for pattern in own:
        for path in folder.glob(pattern):
            yield path
            if path.is_dir() and not path.is_symlink():
                for root, folders, files in os.walk(path):
                    yield from (Path(root, name) for name in (*folders, *files))


def _is_open(path: Path) -> bool:
    with contextlib.suppress(OSError):  # it was deleted meanwhile
        found = path.lstat()
        ours = os.geteuid() in (0, found.st_uid) and not stat.S_ISLNK(found.st_mode)
        return ours and bool(found.st_mode & OTHERS)
    return False


def _shut(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~OTHERS)
    return not _is_open(path)


def _may_be_shut(folder: Path) -> bool:
    """Return whether a folder is this user's alone to close: no home, none above."""
    here = folder.resolve()
    home = Path("~").expanduser().resolve()
    return here not in (home, *home.parents)
