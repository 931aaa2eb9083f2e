"""How much one update may count: a bound on its norm and on its weight.

Both bounds are multiples of a median, so no single device moves them, and both are pure
functions of frozen rows, so a round that is closed again counts everybody the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PAST", "Share", "shares"]

PAST = 3  # rounds whose norms join the present one's: few devices make a poor median


@dataclass(frozen=True, slots=True)
class Share:
    """What of an update counts.

    Attributes:
        scale: Factor on the change; 1 unless its norm is beyond the bound.
        weight: Its weight in the mean: its examples, or the most that one may have.
        why: What was cut, in words; empty if nothing was.
    """

    scale: float
    weight: int
    why: str


def shares(
    norms: Sequence[float],
    examples: Sequence[int],
    past: Sequence[float],
    *,
    clip: float,
    weight: float,
) -> list[Share]:
    """What of each of a round's updates counts.

    Args:
        norms: L2 norms of the changes, as measured here.
        examples: Examples of each, as its device said.
        past: Norms of the last rounds' updates.
        clip: A change may be so many times as long as the median; 0 for no bound.
        weight: An update may weigh so many times the median; 0 for no bound.
    """
    longest = clip * _median([*norms, *past])
    heaviest = int(weight * _median(examples))
    found = []
    for norm, count in zip(norms, examples, strict=True):
        cut, scale, counted = [], 1.0, count
        if 0 < longest < norm:
            scale = longest / norm
            cut.append(f"its change is {norm:.3g} long; {longest:.3g} counts")
        if 0 < heaviest < count:
            counted = heaviest
            cut.append(f"it says {count} examples; {heaviest} count")
        found.append(Share(scale, counted, ", ".join(cut)))
    return found


def _median(values: Sequence[float]) -> float:
    """The lower median: of two, the one that a liar cannot raise."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0
