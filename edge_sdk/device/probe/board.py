"""Facts that Linux tells of this board: name, cores, vector units, disk, clock."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Board",
    "clock_complaint",
    "free_disk_mib",
    "is_32_bit",
    "likely_board",
    "nearest_folder",
    "read_board",
    "text_of",
]

# In the kernels' or torch's interest, by the name /proc/cpuinfo gives them.
_SIMD = (
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "neon"),
)
# A board without a battery-backed clock starts in 1970, or at its image's build date.
_EARLIEST = dt.date(2025, 1, 1)
_LATEST = dt.date(2100, 1, 1)

# Words of the kernel's model -> boards with at most so many MiB, smallest first.
_CATALOGUE = {
    "Raspberry Pi Zero 2": ((1 << 30, "raspberry_pi_zero_2_w"),),
    "Raspberry Pi 3": ((1 << 30, "raspberry_pi_3b_plus"),),
    "Raspberry Pi 4": (
        (2048, "raspberry_pi_4b_2gb"),
        (4096, "raspberry_pi_4b_4gb"),
        (1 << 30, "raspberry_pi_4b_8gb"),
    ),
    "Raspberry Pi 5": ((4096, "raspberry_pi_5_4gb"), (1 << 30, "raspberry_pi_5_8gb")),
    "AGX Orin": ((1 << 30, "jetson_agx_orin"),),
    "Orin NX": ((1 << 30, "jetson_orin_nx"),),
    "Orin Nano": ((1 << 30, "jetson_orin_nano"),),
    "Xavier NX": ((1 << 30, "jetson_xavier_nx"),),
    "Jetson Nano": ((1 << 30, "jetson_nano"),),
}


@dataclass(frozen=True, slots=True)
class Board:
    """The board as its kernel describes it.

    Attributes:
        name: Its model, at most 64 characters.
        cores: Cores this process may use: affinity and control group counted.
        simd: Vector instruction sets.
    """

    name: str
    cores: int
    simd: tuple[str, ...]


def read_board(root: Path = Path("/")) -> Board:
    """Reads ``proc`` and ``sys``; what is absent falls back to what Python knows.

    Args:
        root: Where they are, for a copied tree.
    """
    flags = _flags(root)
    simd = tuple(name for name in _SIMD if name in flags)
    return Board(_name(root)[:64], _cores(root), simd)


def likely_board(board: Board, ram_mib: int | None = None) -> str:
    """The board of the catalogue that this one is, or is most like.

    Args:
        board: What the kernel says.
        ram_mib: Its memory; read if not given.

    Example:
        >>> likely_board(Board("Raspberry Pi 4 Model B Rev 1.4", 4, ()), 3800)
        'raspberry_pi_4b_4gb'
    """
    total = ram_mib if ram_mib is not None else _ram_mib()
    for words, names in _CATALOGUE.items():
        if words in board.name:
            fitting = [name for most, name in names if total <= most]
            return fitting[0] if fitting else names[-1][1]
    return "x86_small_box"


def free_disk_mib(folder: Path) -> int:
    """Free space where this folder is, or will be."""
    return shutil.disk_usage(nearest_folder(folder)).free >> 20


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or the one that it will be made in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def is_32_bit() -> bool:
    """Return whether Python is a 32-bit program, whatever the kernel is."""
    return sys.maxsize < 1 << 32


def clock_complaint(today: dt.date) -> str | None:
    """The reason why this clock cannot be believed; None if it can."""
    if _EARLIEST <= today < _LATEST:
        return None
    return (
        f"the clock says {today.isoformat()}: certificates and dates will not be "
        "believed until it is set (timedatectl set-ntp true)"
    )


def _ram_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _name(root: Path) -> str:
    for file in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        text = text_of(root / file).strip("\0\n ")
        if text:
            return text
    return platform.machine() or "unknown"


def _flags(root: Path) -> frozenset[str]:
    for line in text_of(root / "proc/cpuinfo").splitlines():
        key, _, rest = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(rest.split())
    return frozenset()


def _cores(root: Path) -> int:
    cores = len(os.sched_getaffinity(0))
    quota, _, period = text_of(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def text_of(path: Path) -> str:
    """A small file's text; empty if it is absent on this kernel, or not ours."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
