"""Limits on one update's contribution: its norm, its weight, and their product.

A device's influence on the mean's numerator is its weight times the length of its
change. Every bound is a multiple of a lower median, so no single device moves it, and
all are pure functions of frozen rows, so a round that is closed again counts everybody
the same. With influence bounded by the median's, of n >= 3 devices:

- one that lies however it likes is outweighed by the others together, whatever
  they differ in;
- f <= (n - 1) / 2 that lie are outweighed by n - f whose influences do not differ
  (by less than a factor of (n - f) / f), as far as these point one way: the mean goes
  their way if each of them goes more than a share f / (n - f) of its length that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PAST", "ContributionLimit", "shares"]

PAST = 3  # rounds whose norms join the present one's: few devices make a poor median


@dataclass(frozen=True, slots=True)
class ContributionLimit:
    """Part of an update that counts.

    Attributes:
        scale: Factor on the change; 1 unless its norm is beyond the bound.
        weight: Its weight in the mean: its examples, or as many as its influence may
            have; any number above 0.
        why: What was out of the ordinary, in words; empty if nothing was.
    """

    scale: float
    weight: float
    why: str


def shares(
    norms: Sequence[float],
    examples: Sequence[int],
    past: Sequence[float],
    *,
    clip: float,
    weight: float,
    influence: float,
) -> list[ContributionLimit]:
    """Compute the part of each of a round's updates that counts.

    The length is cut by a factor on the change, the influence by the weight: so the
    mean of devices with unequal data is as long as any of them, and a batch norm's
    statistics, which are pooled with their squares, stay within the length's bound.

    Args:
        norms: L2 norms of the changes, as measured here.
        examples: Examples of each, as its device said.
        past: Norms of the last rounds' updates.
        clip: A change may be so many times as long as the median; 0 for no bound.
        weight: An update may weigh so many times the median, and never more than all
            others together; 0 for no bound.
        influence: Weight times length may be so many times the median; 0: no bound.
    """
    longest = clip * _median([*norms, *past])
    heaviest = weight * _median(examples)
    together = max(1, len(examples) // 2) * _median(examples)  # half weigh the median
    scales, weights, whys = [], [], []
    for norm, count in zip(norms, examples, strict=True):
        cut, scale, counted = [], 1.0, float(count)
        if 0 < longest < norm:
            scale = longest / norm
            cut.append(f"its change is {norm:.3g} long; {longest:.3g} counts")
        if heaviest > 0:
            counted = min(counted, heaviest, together)
            if heaviest < count:
                cut.append(f"it says {count} examples; {counted:g} count")
        scales.append(scale)
        weights.append(counted)
        whys.append(", ".join(cut))
    lengths = [norm * scale for norm, scale in zip(norms, scales, strict=True)]
    most = influence * _median(
        [own * length for own, length in zip(weights, lengths, strict=True)]
    )
    if most > 0:
        weights = [
            min(own, most / length) if length else own
            for own, length in zip(weights, lengths, strict=True)
        ]
    return [ContributionLimit(*one) for one in zip(scales, weights, whys, strict=True)]


def _median(values: Sequence[float]) -> float:
    """The lower median: of two, the one that a liar cannot raise."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0
