"""NST (FLASH, arXiv:2208.13092, section 4): every device has a mask of its own.

All start from one; a device that trains prunes and regrows and goes on from there the
next time it is chosen. The coordinator keeps the masks, so devices stay stateless. The
global model is the plain mean over disjoint supports and is itself dense; what is
deployed is its largest magnitudes at the mean of the devices' layer budgets, where the
paper reports the accuracy of the union.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from coordinator.algorithms.base import ANYONE, Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.mean import Coverage, Model, moving_mean
from coordinator.algorithms.top_k_masks import (
    chosen,
    in_full,
    layer_budgets,
    magnitudes,
    tie_key,
)
from edge_sdk.sparse import Mask
from edge_sdk.wire.rules import LocalRule, Rewire

__all__ = ["nst"]


def nst() -> Algorithm:
    """Prune rate .25, falling to 0 within each round; moves in the middle of it."""
    return Algorithm(
        name="nst",
        plan=in_full,
        assign=_all_at_the_runs_own,
        local=_always_rewire,
        aggregate=partial(moving_mean, absent=1.0),
        revise=_deployed_by_magnitude,
    )


def _all_at_the_runs_own(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> dict[str, float]:
    """The largest density below the global model's own."""
    below = [d for d in densities if d < 1.0]
    return dict.fromkeys(affordable, max(below, default=1.0))


def _always_rewire(_moment: RoundContext) -> LocalRule:
    return Rewire()


def _deployed_by_magnitude(
    family: MaskFamily, model: Model, coverage: Coverage, moved: Mapping[str, Mask]
) -> MaskFamily:
    below = [d for d in family.masks if d < 1.0]
    first = family.masks[max(below, default=1.0)]  # until the first round: the shared
    own = {ANYONE: first, **family.own, **moved}
    budgets = layer_budgets(family.layers, coverage)
    scores, key = magnitudes(model), tie_key(family)
    return chosen(family.layers, [1.0, *below], budgets, scores, key, own)
