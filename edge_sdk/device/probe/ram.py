"""Memory that this process may have: of the board, control groups and limits."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.device.probe.board import text_of

__all__ = ["Ceiling", "Ram", "ceilings", "ram_for_agent", "read_fields", "resident_mib"]

MIB = 1024 * 1024
# A control group without a limit says "max" (v2) or a page-rounded 2^63 (v1).
UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit on this process's memory.

    Attributes:
        name: Who sets it, such as ``cgroup /system.slice``.
        free_mib: What is left below it, with what this process itself holds.
        limit_mib: The limit itself.
    """

    name: str
    free_mib: int
    limit_mib: int


@dataclass(frozen=True, slots=True)
class Ram:
    """Memory free for the agent, and what decides it."""

    free_mib: int
    why: str


def ram_for_agent(root: Path = Path("/")) -> Ram:
    """The least of the board's available memory and every ceiling over this process.

    Args:
        root: Where ``proc`` and ``sys`` are, for a copied tree.
    """
    found = [_board(root), *ceilings(root)]
    least = min(found, key=lambda one: one.free_mib)
    return Ram(
        max(1, least.free_mib),
        f"{least.name} leaves {least.free_mib} MiB of {least.limit_mib}",
    )


def ceilings(root: Path = Path("/")) -> tuple[Ceiling, ...]:
    """Limits from control groups (v1 and v2) and resource limits; often none."""
    own = _own_bytes(root)
    return (*_groups(root, own), *_limits(root, own))


def _board(root: Path) -> Ceiling:
    fields = read_fields(root / "proc/meminfo")
    total = fields.get("MemTotal", 0)
    # Before Linux 3.14 there is no MemAvailable.
    free = fields.get(
        "MemAvailable", fields.get("MemFree", 0) + fields.get("Cached", 0)
    )
    return Ceiling("the board", (1024 * free + _own_bytes(root)) // MIB, total // 1024)


def _groups(root: Path, own: int) -> Iterator[Ceiling]:
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if not kinds:
            yield from _climb(root / "sys/fs/cgroup", path, "memory.max", own)
            yield from _climb(root / "sys/fs/cgroup", path, "memory.high", own)
        elif "memory" in kinds.split(","):
            yield from _climb(
                root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes", own
            )


def _climb(base: Path, path: str, file: str, own: int) -> Iterator[Ceiling]:
    """The limit of this group and of all above it: each of them holds."""
    here = base / path.strip("/")
    while True:
        limit = _number(here / file)
        if limit is not None and limit < UNLIMITED:
            cached = read_fields(here / "memory.stat").get("inactive_file", 0)
            used = _usage(here) - cached  # the kernel gives cached pages back
            name = f"cgroup /{here.relative_to(base)}".replace("/.", "/")
            free = min(limit, limit - max(used, 0) + own)
            yield Ceiling(name, max(free, 0) // MIB, limit // MIB)
        if here == base:
            return
        here = here.parent


def _usage(group: Path) -> int:
    for file in ("memory.current", "memory.usage_in_bytes"):
        used = _number(group / file)
        if used is not None:
            return used
    return 0


def _limits(root: Path, own: int) -> Iterator[Ceiling]:
    status = read_fields(root / "proc/self/status")
    # An address-space limit also counts what is mapped and never touched.
    for name, kind, used in (
        ("RLIMIT_AS", resource.RLIMIT_AS, 1024 * status.get("VmSize", 0)),
        ("RLIMIT_DATA", resource.RLIMIT_DATA, 1024 * status.get("VmData", 0)),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft not in (resource.RLIM_INFINITY, -1):
            free = min(soft, soft - used + own)
            yield Ceiling(name, max(free, 0) // MIB, soft // MIB)


def _own_bytes(root: Path) -> int:
    fields = read_fields(root / "proc/self/status")
    return 1024 * fields.get("RssAnon", fields.get("VmRSS", 0))


def resident_mib() -> int:
    """Memory of this process that is in the board's RAM, libraries included."""
    return read_fields(Path("/proc/self/status")).get("VmRSS", 0) >> 10


def read_fields(path: Path) -> Mapping[str, int]:
    """``Key: 123 kB`` or ``key 123`` lines as numbers; others are left out."""
    found: dict[str, int] = {}
    for line in text_of(path).splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _number(path: Path) -> int | None:
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None
