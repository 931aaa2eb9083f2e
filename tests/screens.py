"""Our commands on a terminal of a given size: a real process on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from patience import patience

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen:
    """One command, and all that it has written to its terminal."""

    def __init__(self, line: list[str], columns: int, rows: int, cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            line,
            cwd=cwd,
            env={**env, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = ""

    @property
    def text(self) -> str:
        """What was written, without colours and movements."""
        return ANSI.sub("", self.raw).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        return re.split(r"[\r\n]+", self.text)

    def wait(self, until: Callable[[str], bool], seconds: float = 60.0) -> None:
        """Reads until the text is as wanted."""
        began = time.monotonic()
        while not until(self.text):
            if not self._read() and self.process.poll() is not None:
                assert until(self.text), self.text
                return
            assert time.monotonic() - began < patience(seconds), self.text

    def end(self, seconds: float = 60.0) -> int:
        """Reads to the end and returns the exit code."""
        began = time.monotonic()
        while self._read() or self.process.poll() is None:
            assert time.monotonic() - began < patience(seconds), self.text
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 0.1)[0]:
            return False
        with contextlib.suppress(OSError):  # Linux says EIO once the other end is shut
            found = os.read(self._ours, 65536)
            self.raw += found.decode("utf-8", "replace")
            return bool(found)
        return False


@contextlib.contextmanager
def on_screen(
    module: str,
    *arguments: object,
    columns: int = 80,
    rows: int = 24,
    cwd: Path = Path(),
) -> Iterator[Screen]:
    """A command on a terminal of its own; killed at the end of the block."""
    line = [sys.executable, "-m", f"{module}.cli", *map(str, arguments)]
    screen = Screen(line, columns, rows, cwd)
    try:
        yield screen
    finally:
        screen.close()
