"""Errors of a ledger that cannot be read, in words, whichever row it is."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from coordinator.ledger.database import damaged, database_error

__all__ = ["in_words"]

C = TypeVar("C", bound=type)
# These call others back, whose errors are their own; and what `accept` writes, the
# commit refuses in words.
OTHERS = frozenset({"accept", "close", "once_durable", "settle"})


def in_words(kind: C) -> C:
    """Make every public method of a ledger raise `StateError` for damaged rows.

    A flipped bit is met where a row is read, by any of them: as an error of SQLite, a
    text that is no JSON, a phase that there is not, a number that is none.
    """
    for name in dir(kind):
        method = getattr(kind, name)
        if not name.startswith("_") and callable(method) and name not in OTHERS:
            setattr(kind, name, _said(method))
    return kind


def _said(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def reading(self: Any, *given: Any, **named: Any) -> Any:
        try:
            return method(self, *given, **named)
        except sqlite3.Error as error:
            raise database_error(self.folder / "ledger.sqlite", error) from error
        except (ValueError, KeyError) as error:
            raise damaged(self.folder / "ledger.sqlite", error) from error

    return reading
