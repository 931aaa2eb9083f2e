"""Start of every child process with this interpreter, isolated from the folder.

``python -m`` and ``python -c`` look for every module in the current folder first, so a
`psutil.py` or `typing.py` that lies there would be executed in the place of the true
one. A child that is started from here looks where its parent's installation looks, and
nowhere else; `PYTHONPATH` still counts. A task of the user's own is found by
`edge_sdk.tasks.task.load_task`, behind everything that is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

__all__ = [
    "beside",
    "child_code",
    "child_module",
    "elsewhere",
    "output_of",
    "standalone",
    "start_again",
]

_ISOLATED = str(Path(__file__).with_name("isolated_child.py"))


def child_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module as a program, as ``python -m`` does.

    Example:
        >>> child_module("coordinator.cli", "status", "run")[2:]
        ['coordinator.cli', 'status', 'run']
    """
    return [sys.executable, _ISOLATED, module, *arguments]


def child_code(program: str, *arguments: str) -> list[str]:
    """The command line that runs Python source, as ``python -c`` does."""
    return [sys.executable, _ISOLATED, "-c", program, *arguments]


def output_of(
    command: Sequence[str], *, timeout_s: float | None = None, folder: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A program that has ended, with what it wrote; nothing is typed into it.

    Args:
        command: Words of our own; no shell reads them.
        timeout_s: Seconds that it may take.
        folder: Its current folder; None for this process's.

    Raises:
        OSError: If it cannot be started.
        TimeoutExpired: If it takes longer.
    """
    return subprocess.run(  # noqa: S603 - see `command`
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def standalone(script: Path | str, *arguments: str) -> list[str]:
    """The command line of a script that needs the standard library and nothing else."""
    return [sys.executable, "-I", "-S", str(Path(script).resolve()), *arguments]


def beside(program: str) -> Path:
    """Path of an installed program: in the folder of its interpreter."""
    return Path(sys.executable).with_name(program)


def start_again() -> NoReturn:
    """Becomes the very command line that this process was started with, once more."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


@contextmanager
def elsewhere() -> Iterator[None]:
    """The current folder is the root while the block runs.

    For children that a library starts with a command line of its own: as long as they
    live, what they call the current folder is one that only the system writes.
    """
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(before)
        os.close(before)
