"""Runs a user's command that never outlives whoever asked for it.

A guard, this file as a program, starts the command in a process group of its own and
holds the reading end of a pipe. However the caller ends, a SIGKILL included, the pipe
closes, and the guard kills the group: the command and what it has started there. (Linux
has PR_SET_PDEATHSIG, but it reaches the child only, not the child's children.)
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["run_leashed"]

_MOST = 4096  # bytes of what a command said that are read: its last words


def run_leashed(
    command: Sequence[str], *, timeout_s: float, cwd: Path | None = None
) -> tuple[int, str]:
    """Runs a command to its end.

    What it leaves running in the background is left alone if it ends by itself, and
    killed with it if the time is up or the caller dies.

    Args:
        command: Program and arguments.
        timeout_s: Seconds after which the command is killed.
        cwd: Folder to run it in; the current one if not given.

    Returns:
        Exit code (128 + n after signal n, 127 if it could not be started), and the last
        line that it wrote to stderr, else to stdout, else "".

    Raises:
        OSError: If no process can be started at all.
        subprocess.TimeoutExpired: If the time is up.
    """
    # Files and not pipes: a daemon that the command starts would keep a pipe open.
    from edge_sdk.child_process import standalone  # noqa: PLC0415 - not in the guard

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        guard = subprocess.Popen(  # noqa: S603 - the user's own command
            standalone(__file__, *command),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
            cwd=cwd,
        )
        try:
            code = guard.wait(timeout_s)
        except BaseException:
            os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()
            raise
        finally:
            if guard.stdin is not None:
                guard.stdin.close()
        said = (_last_line(err.fileno()), _last_line(out.fileno()))
    return code, next(filter(None, said), "")


def _last_line(handle: int) -> str:
    size = os.fstat(handle).st_size
    text = os.pread(handle, _MOST, max(0, size - _MOST)).decode(errors="replace")
    return (text.strip().splitlines() or [""])[-1]


def _guard(command: Sequence[str]) -> int:
    """Waits for the command, and kills the group when stdin ends before it."""

    def watch() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)  # the guard leads the group

    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    except OSError as error:
        sys.stderr.write(f"it cannot be started: {error}\n")
        return 127
    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    # At once: a thread that waits for stdin would hold the interpreter's end up.
    _code = _guard(sys.argv[1:])
    sys.stderr.flush()
    os._exit(_code)
