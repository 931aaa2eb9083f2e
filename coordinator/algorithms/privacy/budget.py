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
from edge_sdk.errors import RunError, SettingsError

__all__ = [
    "SPENT",
    "check_budget",
    "check_next_round",
    "keep_noise",
    "keep_spent",
    "keep_sum_noise",
    "spent_epsilon",
]

_KEY = "noise_of_rounds"
SPENT = "privacy_spent"  # what people are shown of it
_SUMS = "noise_of_sums"  # of rounds whose devices draw it, as their survivors make it
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
    behind = _behind(memory, done)
    if not (own.epsilon and own.noise_multiplier and behind):
        return
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


def keep_noise(
    memory: SpentMemory, noise_multiplier: float, *, distributed: bool = False
) -> None:
    """Record the noise of the rounds from now on, where it is another.

    Args:
        memory: The ledger.
        noise_multiplier: The settings'.
        distributed: Whether devices draw it: each round's is kept by `keep_sum_noise`.
    """
    done, kept = memory.rounds_done(), memory.get(_KEY)
    known = [list(one) for one in kept or ()]
    if not known and not noise_multiplier:
        return
    if not known and done:
        known = [[0, 0.0]]  # it had none
    now = [noise_multiplier, 1] if distributed else [noise_multiplier]
    if not known or known[-1][1:] != now:
        memory.put(_KEY, [*known, [done, *now]])


def keep_sum_noise(memory: SpentMemory, no: int, noise_multiplier: float) -> None:
    """Record what a sum will tell, durably, before anybody is asked to unmask it.

    A sum counts whether or not it gives a model: the coordinator has read it.

    Args:
        memory: The ledger.
        no: The round.
        noise_multiplier: What the parts of those in the sum come to.
    """
    kept = memory.get(_SUMS) or {}
    if kept.get(str(no)) != noise_multiplier:
        memory.put(_SUMS, {**kept, str(no): noise_multiplier})


def keep_spent(memory: SpentMemory, settings: PrivateRun) -> None:
    """Record what the rounds up to now have told of a device, for people to see."""
    own = settings.privacy
    if not own.noise:
        return
    epsilon = spent_epsilon(memory, own.delta)
    memory.put(
        SPENT,
        {
            "noise": own.noise,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": own.delta,
            "budget": own.epsilon or None,
        },
    )


def spent_epsilon(
    memory: SpentMemory, delta: float, *ahead: tuple[int, float]
) -> float:
    """Epsilon of all rounds that a run has behind it, and of some more.

    Args:
        memory: The ledger.
        delta: The settings'.
        ahead: Rounds and their noise.
    """
    return _epsilon([*_behind(memory, memory.rounds_done()), *ahead], delta)


def check_next_round(memory: SpentMemory, settings: PrivateRun) -> None:
    """End a run whose next sum would tell more than its budget.

    It happens where sums were read that gave no model.

    Raises:
        RunError: Says what is spent.
    """
    own = settings.privacy
    if not own.epsilon:
        return
    if spent_epsilon(memory, own.delta, (1, own.noise_multiplier)) > own.epsilon:
        spent = spent_epsilon(memory, own.delta)
        raise RunError(
            f"the budget of privacy is spent: {spent:.3g} of epsilon {own.epsilon:g} "
            f"at delta {own.delta:g}, and one more round would go beyond",
            remedy="Its model stays as it is; start another run, or allow more "
            "(privacy.epsilon).",
        )


def _behind(memory: SpentMemory, done: int) -> list[tuple[int, float]]:
    """The rounds that are done, and the sums that were read, by their noise."""
    known = memory.get(_KEY) or [[0, 0.0]]
    ends = [one[0] for one in known[1:]] + [done]
    rounds = [
        (max(0, end - one[0]), float(one[1]))
        for one, end in zip(known, ends, strict=True)
        if not one[2:]
    ]
    sums = (memory.get(_SUMS) or {}).values()
    told = [*rounds, *((1, float(noise)) for noise in sums)]
    return [one for one in told if one[0]]


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
