"""Values as people read them: bytes and times in few characters, tables in lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flat", "human_bytes", "short_bytes", "short_time"]


def human_bytes(count: float) -> str:
    """Bytes in the unit that leaves few digits.

    Example:
        >>> human_bytes(1536), human_bytes(2_000_000), human_bytes(1024**2 - 1)
        ('1.5 KiB', '1.9 MiB', '1.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(abs(count), 1) < 1024 or unit == "TiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def short_bytes(count: float) -> str:
    """Bytes in at most five characters; K, M and G are powers of 1024.

    Example:
        >>> short_bytes(999), short_bytes(1536), short_bytes(300 * 1024)
        ('999', '1.5K', '300K')
    """
    for unit in ("", "K", "M", "G"):
        if count < 1000 or unit == "G":
            digits = 1 if unit and count < 10 else 0
            return f"{count:.{digits}f}{unit}"
        count /= 1024
    raise AssertionError


def short_time(seconds: float | None) -> str:
    """Seconds in at most four characters.

    Example:
        >>> short_time(4.2), short_time(200), short_time(9000), short_time(None)
        ('4s', '3m', '2h', '-')
    """
    if seconds is None:
        return "-"
    for unit, size in (("s", 120.0), ("m", 120.0), ("h", 48.0)):
        if seconds < size:
            return f"{seconds:.0f}{unit}"
        seconds /= 24 if unit == "h" else 60
    return f"{seconds:.0f}d"


def flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """A nested table as ``a.b`` and text; what is None is left out.

    Example:
        >>> list(flat({"a": {"b": 1, "c": None}, "d": "x"}))
        [('a.b', '1'), ('d', 'x')]
    """
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flat(inner, f"{before}{key}.")
        elif inner is not None:
            yield f"{before}{key}", str(inner)
