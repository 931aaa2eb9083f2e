"""Subscriptions of a client, no more at a time than its broker takes; pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["SubscriptionWindow"]


class SubscriptionWindow:
    """Topic filters that are wanted, and those that the broker was asked for.

    What goes beyond the broker's subscriptions waits until others are given up.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, None] = {}  # in the order they were asked for
        self._asked: set[str] = set()

    def __len__(self) -> int:
        return len(self._asked)

    def want(self, patterns: Iterable[str]) -> list[str]:
        """Adds filters; returns those that the broker was asked for before.

        Asked once more for one, a broker says again what it retains there.
        """
        given = list(dict.fromkeys(patterns))
        self._wanted.update(dict.fromkeys(given))
        return [pattern for pattern in given if pattern in self._asked]

    def give_up(self, patterns: Iterable[str]) -> list[str]:
        """Drops filters; returns those that the broker was asked for."""
        given = list(dict.fromkeys(patterns))
        for pattern in given:
            self._wanted.pop(pattern, None)
        left = [pattern for pattern in given if pattern in self._asked]
        self._asked.difference_update(left)
        return left

    def fresh(self, most: int) -> list[str]:
        """The filters to ask for next, where a client may have so many in all."""
        room = max(most - len(self._asked), 0)
        found = [p for p in self._wanted if p not in self._asked][:room]
        self._asked.update(found)
        return found

    def forget(self) -> None:
        """A new link: the broker was asked for none."""
        self._asked.clear()
