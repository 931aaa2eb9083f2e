"""The word that was meant: for names of boards, tasks, algorithms, formats and keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["meant"]


def meant(word: str, known: Iterable[str]) -> str:
    """A question that names the close names, to add to "there is no such name"; or "".

    Example:
        >>> meant("flahs", ["flash", "fedavg"]), meant("xyz", ["flash"])
        ('; did you mean flash?', '')
    """
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
