"""The best model of each density: by which rule, where it lies, when a run is through.

Rule 1. A model is better if its primary metric improves on the best by more than
        `gain`, in the metric's direction.
Rule 2. A run is through if no density's best has changed for `patience` scored rounds,
        counted anew from an extension.
Rule 3. A model that devices test is looked at when their answers are in: all that were
        asked have answered, or two rounds have passed. It is decided once.
Rule 4. Which round is best is noted after its file is there; a crash between the two
        writes the same file again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["BestModels", "BestRule", "Scored", "answered_rounds"]

log = logging.getLogger(__name__)

KEY = "best"


@dataclass(frozen=True, slots=True)
class BestRule:
    """Rule by which a model counts as better, and a run as through.

    Attributes:
        metric: Name of the primary metric.
        higher_is_better: Its direction.
        gain: By how much a model has to be better.
        patience: Scored rounds without a better model that end the run; 0 for none.
    """

    metric: str
    higher_is_better: bool
    gain: float = 0.0
    patience: int = 0

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a value improves on the best; a first one does."""
        if not math.isfinite(value):
            return False
        if than is None:
            return True
        return (value - than if self.higher_is_better else than - value) > self.gain


def answered_rounds(
    done: Sequence[int], asked: Collection[str], answered: Collection[str]
) -> set[int]:
    """Rounds about whose models no more answers are waited for.

    A device is asked about the model that its task begins with, in that round and the
    one after it.

    Args:
        done: Rounds that gave a model, in order.
        asked: Devices with a task of the last of them.
        answered: Devices that have told of the model of the one before it.

    Example:
        >>> answered_rounds([1, 2, 3, 4], {"a", "b"}, {"a"})
        {1, 2}
        >>> answered_rounds([1, 2, 3, 4], {"a", "b"}, {"a", "b"})
        {1, 2, 3}
    """
    return set(done[:-1] if set(asked) <= set(answered) else done[:-2])


class Scored(Protocol):
    """Part of a run's ledger that this reads and writes."""

    def get(self, key: str) -> Any:
        """A stored JSON value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        ...


class BestModels:
    """Keeps the best model of each density beside the last.

    Args:
        rule: When a model is better.
        memory: Where the best rounds are noted.
        write: (round, density, metrics) -> writes that round's model as the best one of
            the density; False where its checkpoint is gone.
        after: The last round before the run was extended; patience begins there.
    """

    def __init__(
        self,
        rule: BestRule,
        memory: Scored,
        write: Callable[[int, float, Mapping[str, float]], bool],
        after: int = 0,
    ) -> None:
        self._rule, self._memory, self._write = rule, memory, write
        self._after = after
        self._scored: set[int] = set()

    def look(
        self,
        scores: Mapping[int, Mapping[float, Mapping[str, float]]],
        kept: Collection[int],
    ) -> None:
        """Takes note of scores, old ones too; the best so far stay, with their values.

        Args:
            scores: Round -> density -> metrics, of all trained models.
            kept: Rounds whose checkpoints are there.
        """
        for no, found in sorted(scores.items()):
            for density, metrics in found.items():
                value = metrics.get(self._rule.metric, math.nan)
                if no and math.isfinite(value):
                    self._scored.add(no)
                    if no in kept:
                        self._take(no, density, value, metrics)

    @property
    def through(self) -> str:
        """The reason to end the run now; empty while a better model may come."""
        patience = self._rule.patience
        best = self._memory.get(KEY) if patience else None
        if not best:
            return ""
        newest = max(one["round"] for one in best.values())
        since = len([no for no in self._scored if no > max(newest, self._after)])
        if since < patience:
            return ""
        return (
            f"no better model for {since} scored rounds: the best is of round {newest}"
        )

    def rounds(self) -> dict[float, int]:
        """Density -> the round of its best model."""
        best = self._memory.get(KEY) or {}
        return {float(density): one["round"] for density, one in best.items()}

    def _take(
        self, no: int, density: float, value: float, metrics: Mapping[str, float]
    ) -> None:
        known = dict(self._memory.get(KEY) or {})
        before = known.get(str(density))
        if before is not None and before["round"] >= no:
            return
        than = None if before is None else before["value"]
        better = self._rule.is_better(value, than)
        if not better or not self._write(no, density, metrics):
            return
        text = "round %d is the best so far at density %g: %s %.4g"
        log.info(text, no, density, self._rule.metric, value)
        known[str(density)] = {"round": no, "value": value}
        self._memory.put(KEY, known)
