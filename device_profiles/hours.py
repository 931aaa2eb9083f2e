"""Hours of the day: windows such as ``22:00-06:00``, and what two lists share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = [
    "DAY_MINUTES",
    "check_windows",
    "common",
    "minutes_until_closed",
    "minutes_until_open",
]

DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def check_windows(windows: Sequence[str]) -> None:
    """Refuses what is not ``HH:MM-HH:MM``, or opens and closes at one instant.

    Raises:
        ValueError: Names the window.
    """
    for window in windows:
        match = _WINDOW.fullmatch(window)
        if match is None or match.group(1, 2) == match.group(3, 4):
            raise ValueError(f"hours must be like 22:00-06:00, not {window!r}")


def minutes_until_open(windows: Sequence[str], minute: int) -> int | None:
    """Minutes from this minute of the day to the next open one; None for never.

    Example:
        >>> minutes_until_open(("22:00-06:00",), 23 * 60)
        0
        >>> minutes_until_open(("22:00-06:00",), 20 * 60)
        120
    """
    if not windows:
        return 0
    opened = _opened(windows)
    if not opened:
        return None
    return min((start - minute) % DAY_MINUTES for start in opened)


def minutes_until_closed(windows: Sequence[str], minute: int) -> int | None:
    """Minutes from this minute of the day to the next shut one; None for never.

    Example:
        >>> minutes_until_closed(("22:00-06:00",), 5 * 60)
        60
        >>> minutes_until_closed(("22:00-06:00",), 12 * 60)
        0
        >>> minutes_until_closed((), 12 * 60) is None
        True
    """
    shut = set(range(DAY_MINUTES)) - _opened(windows) if windows else ()
    return min(((end - minute) % DAY_MINUTES for end in shut), default=None)


def common(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """Windows open in both lists; an empty list is always open.

    Two lists that share nothing give one minute after midnight: `Caps` cannot say
    "never", and a minute a day trains nothing.

    Example:
        >>> common(("22:00-06:00",), ("00:00-08:00",))
        ('00:00-06:00',)
    """
    if not mine or not theirs:
        return tuple(mine or theirs)
    shared = sorted(_opened(mine) & _opened(theirs))
    if len(shared) == DAY_MINUTES:
        return ()
    return tuple(_windows(shared)) or ("00:00-00:01",)


def _opened(windows: Iterable[str]) -> set[int]:
    opened: set[int] = set()
    for window in windows:
        match = _WINDOW.fullmatch(window)
        if match is None:
            continue
        h1, m1, h2, m2 = map(int, match.groups())
        start, end = 60 * h1 + m1, 60 * h2 + m2
        length = (end - start) % DAY_MINUTES
        opened |= {(start + step) % DAY_MINUTES for step in range(length)}
    return opened


def _windows(minutes: Sequence[int]) -> list[str]:
    runs: list[list[int]] = []
    for minute in minutes:
        if runs and runs[-1][1] == minute:
            runs[-1][1] = minute + 1
        else:
            runs.append([minute, minute + 1])
    return [f"{_clock(start)}-{_clock(end % DAY_MINUTES)}" for start, end in runs]


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
