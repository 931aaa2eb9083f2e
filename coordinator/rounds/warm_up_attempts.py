"""The warm-up's attempts: who is asked when one was given up, and when it is enough.

Rule 1. What an attempt has brought stays: its evidence stands on the same first model.
Rule 2. Others are asked before those who were; who has said that it cannot never again.
Rule 3. Where nobody is left the run goes on: with what is here, else without evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.rounds.state import TaskPhase

__all__ = ["ATTEMPTS", "Attempt", "next_attempt"]

ATTEMPTS = 5  # in all; each may take hours
WITH_THE_SAME = 2  # of them, while nobody else is here


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        no: 0 is the first.
        kept: Devices whose evidence is here already, by name.
        able: Devices that may be asked; none ends the warm-up.
    """

    no: int
    kept: tuple[str, ...]
    able: frozenset[str]


def next_attempt(
    no: int, tasks: Mapping[str, TaskPhase], present: Collection[str]
) -> Attempt:
    """Devices that may be asked in the next attempt.

    Args:
        no: Attempts that were given up.
        tasks: Device -> how its task of an earlier attempt ended.
        present: Devices that are here and can take part.

    Example:
        >>> late = {"a": TaskPhase.EXPIRED, "b": TaskPhase.FAILED}
        >>> [sorted(next_attempt(1, late, here).able) for here in ("abc", "ab", "b")]
        [['c'], ['a'], []]
    """
    kept = sorted(d for d, phase in tasks.items() if phase is TaskPhase.ACCEPTED)
    able = frozenset(d for d in present if d not in tasks)
    if not able and no < WITH_THE_SAME:
        able = frozenset(d for d in present if tasks.get(d) is TaskPhase.EXPIRED)
    return Attempt(no, tuple(kept), able if no < ATTEMPTS else frozenset())
