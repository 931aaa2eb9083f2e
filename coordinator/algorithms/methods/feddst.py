"""FedDST (Bibikar et al., arXiv:2112.09824): dynamic masks at an ERK budget.

Every `interval` rounds, until half of the run, devices replace a share of each layer by
gradient magnitude after training; the share falls as a cosine. The server averages
each weight over those that held it and keeps the largest of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.mean import Coverage, Model, moving_mean
from coordinator.algorithms.random_masks import rescaled_erk_random
from coordinator.algorithms.top_k_masks import chosen, magnitudes, tie_key
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import Mask, erk_rescaled
from edge_sdk.wire.rules import Frozen, LocalRule, Regrow

__all__ = ["feddst"]


def feddst(*, interval: int = 10, share: float = 0.5) -> Algorithm:
    """ERK by one factor on the sparsities, as the authors'; exact counts, with floors.

    Weights that were just regrown are 0 on every device, so which of them stay is no
    matter of size: a keyed random order decides, never their position. The authors'
    first mask keeps the largest initial magnitudes; ours is drawn, as for every other
    method, so that it costs no bytes.

    Args:
        interval: Rounds from one adjustment to the next.
        share: Of each layer that the first adjustment replaces; alpha in the paper.

    Raises:
        SettingsError: If one of them is out of range.
    """
    if not (0 < share < 1 and interval >= 1):
        raise SettingsError(
            f"feddst: share {share}, interval {interval}; a share lies between 0 and "
            "1, an interval is at least 1"
        )
    return Algorithm(
        name="feddst",
        plan=rescaled_erk_random,
        local=partial(_regrow_every, interval, share),
        aggregate=moving_mean,
        revise=_largest_at_erk,
    )


def _regrow_every(interval: int, share: float, moment: RoundContext) -> LocalRule:
    end = max(moment.rounds / 2, 1)
    if (moment.round_no - 1) % interval or moment.round_no > end:
        return Frozen()
    falling = share / 2 * (1 + math.cos(math.pi * (moment.round_no - 1) / end))
    return Regrow(share=falling)


def _largest_at_erk(
    family: MaskFamily, model: Model, _coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    """Unchanged after a frozen round."""
    if model.mask.digest == family.top.digest:
        return family
    profile, scores = partial(erk_rescaled, family.layers), magnitudes(model)
    densities = list(family.masks)
    return chosen(family.layers, densities, profile, scores, tie_key(family))
