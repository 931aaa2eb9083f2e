"""Parts of a model: which of its entries are personal, which are frozen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from edge_sdk.errors import TaskError

if TYPE_CHECKING:
    from edge_sdk.tasks.task import Task

__all__ = ["fits", "matched"]


def matched(
    task: Task,
    what: Literal["personal", "frozen", "adapters.train"],
    names: Sequence[str],
) -> tuple[str, ...]:
    """The names that a task's patterns match, in the order of `names`.

    A pattern matches an entry by its name, or by the name of a module that holds it:
    ``head`` and ``head.*`` are the same.

    Args:
        task: Gives the patterns.
        what: Which of them.
        names: Of the model's ``state_dict``.

    Raises:
        TaskError: If a pattern matches nothing, or all together match everything.
    """
    patterns = {
        "personal": task.personal,
        "frozen": task.frozen,
        "adapters.train": task.adapters.train if task.adapters else (),
    }[what]
    if isinstance(patterns, str):
        patterns = (patterns,)
    given: object = patterns
    held = list(given) if isinstance(given, Collection) else [given]
    if strange := [one for one in held if not isinstance(one, str)]:
        raise TaskError(
            f"task {task.name}: {what} has a {type(strange[0]).__name__}, which is no "
            "pattern of names",
            remedy=f"Name entries of the model: {what}=['head.*'].",
        )
    found: set[str] = set()
    for pattern in patterns:
        some = [n for n in names if fits(n, pattern)]
        if not some:
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise TaskError(
                f"task {task.name}: {what} has {pattern!r}, which matches nothing of "
                "the model",
                remedy=f"The model's entries are: {shown}.",
            )
        found.update(some)
    if found and len(found) == len(names):
        end = {
            "personal": "nothing would be left to learn together",
            "frozen": "nothing would be left to train",
            "adapters.train": "adapters would have nothing to adapt",
        }[what]
        raise TaskError(
            f"task {task.name}: {what} matches every entry of the model: {end}",
            remedy="Name fewer: the head alone, for example.",
        )
    return tuple(name for name in names if name in found)


def fits(name: str, pattern: str) -> bool:
    """True if a pattern matches an entry's name, or that of a module which holds it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
