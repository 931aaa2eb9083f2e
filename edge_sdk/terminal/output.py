"""Output of a command: facts to stdout, as JSON or for people; remarks apart."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_sdk.json_text import to_json
from edge_sdk.terminal.commands import Json, look
from edge_sdk.terminal.exits import Exit
from edge_sdk.terminal.sanitize import plain
from edge_sdk.terminal.utf8 import echo

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["UNBOUNDED", "at_terminal", "exit_codes", "say", "show", "tell", "width"]

UNBOUNDED = 1000  # columns, where nobody looks: a pipe gets whole cells, unbroken


def say(remark: str, *, aside: bool = False) -> None:
    """A remark for the person at the keyboard; ``--quiet`` leaves it out.

    Args:
        remark: In a sentence.
        aside: Whether it goes to stderr, beside facts that programs may read.
    """
    if not look().quiet:
        echo(plain(remark, lines=True), err=aside)


def at_terminal(remark: str) -> bool:
    """Says something on stderr if a person sees it there, and never into a file.

    Args:
        remark: What has a secret in it.

    Returns:
        Whether it was said.
    """
    seen = sys.stderr.isatty()
    if seen:
        echo(remark, err=True)
    return seen


def show(
    facts: object,
    people: Callable[[], RenderableType],
    *,
    as_json: bool,
    columns: int | None = None,
) -> None:
    """Prints facts.

    Args:
        facts: Plain values.
        people: The same for people, for rich to print.
        as_json: Whether to print the facts as JSON instead.
        columns: How wide; None for `width()`.
    """
    if as_json:
        echo(to_json(facts, indent=2), json=True)
        return
    found = people()
    if isinstance(found, str):
        echo(found)
    else:
        from rich.console import Console  # noqa: PLC0415 - late: completion is quick

        # No markup: brackets in what others say are brackets.
        room = columns or width()
        Console(width=room, highlight=False, markup=False, emoji=False).print(found)


def tell(facts: object, remark: str, *, as_json: bool) -> None:
    """Print a command's result: a remark for people, or facts for programs.

    Args:
        facts: Plain values.
        remark: In a sentence; ``--quiet`` leaves it out.
        as_json: Whether to print the facts as JSON instead.
    """
    if as_json:
        echo(to_json(facts, indent=2), json=True)
    else:
        say(remark)


def width(piped: int = UNBOUNDED) -> int:
    """Columns of the terminal that stdout is, or `piped` where it is none.

    ``COLUMNS`` wins, as with other programs.
    """
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size((80, 24)).columns
    return piped


def exit_codes(*, as_json: Json = False) -> None:
    """List the exit codes, with what each means and what to do."""
    facts = [
        {
            "code": int(code),
            "name": code.name,
            "meaning": code.meaning,
            "remedy": code.remedy,
        }
        for code in Exit
    ]
    lines = [f"{code:>3}  {code.meaning}\n     {code.remedy}" for code in Exit]
    show(facts, lambda: "\n".join(lines), as_json=as_json)
