"""A table of the report as a value: named columns, cells as text or bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Bar", "Cell", "Table", "table"]

KINDS = {"#": "n", "~": "text", "=": "bars"}  # how a column's name begins


@dataclass(frozen=True, slots=True)
class Bar:
    """A share, or several, as a bar, and in words."""

    # width in percent and shade of each piece, from left to right
    parts: tuple[tuple[float, str], ...]
    text: str  # the same in words


Cell: TypeAlias = str | Bar


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    title: str  # its heading
    caption: str  # what its rows are
    # name of each, and how it is laid out: ``n`` numbers, ``text`` words, ``bars``,
    # ``name``, or nothing special
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]  # cells
    empty: str  # what to say without rows


def table(
    title: str,
    caption: str,
    first: tuple[str, ...],
    *more: str,
    rows: Iterable[tuple[object, ...]],
    empty: str,
) -> Table:
    """A table of whatever has a text.

    Args:
        title: Its heading.
        caption: What its rows are.
        first: Names of its first columns; ``#``, ``~`` and ``=`` before a name say that
            it holds numbers, words or bars.
        more: Names of the others.
        rows: Cells; a column of words that nobody has is left out.
        empty: What to say without rows.
    """
    columns = [
        (name.lstrip("#~="), KINDS.get(name[0], "" if i else "name"))
        for i, name in enumerate((*first, *more))
    ]
    cells = [[c if isinstance(c, Bar) else str(c) for c in row] for row in rows]
    said = [
        i
        for i, (_, kind) in enumerate(columns)
        if kind != "text" or any(row[i] for row in cells)
    ]
    return Table(
        title,
        caption,
        tuple(columns[i] for i in said),
        tuple(tuple(row[i] for i in said) for row in cells),
        empty,
    )
