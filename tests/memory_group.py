"""A control group that really holds a process to so much memory.

The kernel kills what goes over it, as on a board or in a container. Both kinds of group
are tried, v2 and v1; making one needs root as a rule.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["inside", "memory_group"]

GROUPS = Path("/sys/fs/cgroup")
V2, V1 = "memory.max", "memory.limit_in_bytes"


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path | None]:
    """A new group with that limit, gone afterwards; None where it cannot be made."""
    group = None
    for parent, limit in ((GROUPS, V2), (GROUPS / "memory", V1)):
        one = parent / f"flash-edge-{os.getpid()}"
        try:
            one.mkdir()
        except OSError:
            continue
        if not (one / limit).exists():  # no memory controller here
            one.rmdir()
            continue
        (one / limit).write_text(str(limit_bytes), encoding="ascii")
        group = one
        break
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def inside(group: Path, command: Sequence[str]) -> list[str]:
    """The command, started in the group."""
    move = f'echo $$ >"{group}/cgroup.procs" && exec "$@"'
    return ["sh", "-c", move, "sh", *command]
