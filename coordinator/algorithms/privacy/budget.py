"""Privacy budget of a run that goes on: rounds behind it count by their own noise.

Settings alone would not do: who stops a run, edits the noise and goes on would be told
an epsilon as if every round had had the noise of today.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from coordinator.algorithms.privacy.accountant import epsilon_of, rounds_within
from coordinator.algorithms.privacy.check import PrivateRun
from edge_sdk.errors import SettingsError

__all__ = ["check_budget", "keep_noise"]

_KEY = "noise_of_rounds"
Rounds = Sequence[tuple[int, float]]  # rounds that gave a model, by their noise


class SpentMemory(Protocol):
    """The ledger, as the budget uses it."""

    def get(self, key: str) -> Any:
        """A stored JSON value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        ...

    def rounds_done(self) -> int:
        """Rounds that gave a model, the warm-up left out."""
        ...


def check_budget(memory: SpentMemory, settings: PrivateRun, *, where: str = "") -> None:
    """Refuse to go on with a run whose rounds would tell more than its budget.

    Args:
        memory: What is behind it.
        settings: Its settings of today, with the rounds of the whole run.
        where: What the message begins with.

    Raises:
        SettingsError: Says what is spent, what the rounds ahead come to, and the
            remedy.
    """
    own, done = settings.privacy, memory.rounds_done()
    if not (own.epsilon and own.noise_multiplier and done):
        return
    behind = _behind(memory, done)
    ahead = max(0, settings.rounds - done)
    spent = _epsilon(behind, own.delta)
    found = _epsilon([*behind, (ahead, own.noise_multiplier)], own.delta)
    if found <= own.epsilon:
        return
    if spent > own.epsilon:
        plain = any(rounds and not noise for rounds, noise in behind)
        why = "some had no noise" if plain else f"they come to epsilon {spent:.3g}"
        raise SettingsError(
            f"{where}key privacy.epsilon: {own.epsilon:g} is spent by the {done} "
            f"rounds that the run has behind it: {why} at delta {own.delta:g}",
            remedy="Start another run in a new folder, or allow more.",
        )
    fit = _fitting(behind, ahead, own.noise_multiplier, own.epsilon, own.delta)
    raise SettingsError(
        f"{where}key privacy.epsilon: {done} rounds have spent {spent:.3g} of "
        f"{own.epsilon:g} at delta {own.delta:g}; with {ahead} more it comes to "
        f"{found:.3g}",
        remedy=f"Set rounds to {done + fit}, or give the rounds ahead more noise.",
    )


def keep_noise(memory: SpentMemory, noise_multiplier: float) -> None:
    """Record the noise of the rounds from now on, where it is another."""
    done, kept = memory.rounds_done(), memory.get(_KEY)
    known = [list(one) for one in kept or ()]
    if not known and not noise_multiplier:
        return
    if not known and done:
        known = [[0, 0.0]]  # it had none
    if not known or known[-1][1] != noise_multiplier:
        memory.put(_KEY, [*known, [done, noise_multiplier]])


def _behind(memory: SpentMemory, done: int) -> list[tuple[int, float]]:
    """The rounds that are done, by their noise."""
    known = memory.get(_KEY) or [[0, 0.0]]
    ends = [start for start, _ in known[1:]] + [done]
    return [
        (max(0, end - start), float(noise))
        for (start, noise), end in zip(known, ends, strict=True)
    ]


def _epsilon(rounds: Rounds, delta: float) -> float:
    """Epsilon of rounds of unequal noise.

    The accountant adds up Renyi divergences, which grow with the rounds over the square
    of the noise: the same as of so many rounds of one noise between them.
    """
    total = sum(count for count, _ in rounds)
    if any(count and not noise for count, noise in rounds):
        return math.inf
    cost = sum(count / noise**2 for count, noise in rounds if count)
    return epsilon_of(math.sqrt(total / cost), total, delta) if total else 0.0


def _fitting(
    behind: Rounds, ahead: int, noise: float, epsilon: float, delta: float
) -> int:
    """The most rounds ahead that keep to an epsilon."""
    low, high = 0, min(ahead, rounds_within(epsilon, noise, delta))
    while low < high:
        middle = (low + high + 1) // 2
        if _epsilon([*behind, (middle, noise)], delta) <= epsilon:
            low = middle
        else:
            high = middle - 1
    return low
