"""Becomes another program that dies with its parent. Run as a script, never imported.

``python bound_child.py PARENT_PID USER PROGRAM ARGUMENTS...``

A fork hook could do this too, but hooks are unsafe beside threads and deprecated; a
program that turns into another keeps its process id. The order matters: the kernel
forgets the death signal when a process changes its user.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

__all__: list[str] = []

PR_SET_PDEATHSIG = 1


def become(parent: int, user: str, command: list[str]) -> None:
    """Drops to a user (empty: stay), ties its life to the parent's, and turns over."""
    if user:
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
