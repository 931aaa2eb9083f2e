"""JMWST (FLASH, arXiv:2208.13092v2, and its released code): mask and weights together.

Every `interval` rounds devices prune and regrow while they train. Their masks are not
averaged: each layer's budget is the mean of theirs, and its places are those of the
largest aggregated magnitudes. In the rounds between the mask is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import LayerSensitivity
from coordinator.algorithms.mean import Coverage, Model, moving_mean
from coordinator.algorithms.random_masks import random_at_evidence
from coordinator.algorithms.top_k_masks import (
    chosen,
    layer_budgets,
    magnitudes,
    tie_key,
)
from edge_sdk.sparse import Mask
from edge_sdk.wire.rules import Frozen, LocalRule, Rewire

__all__ = ["jmwst", "jmwst_every"]


def jmwst(*, interval: int = 1, epochs: int = 10) -> Algorithm:
    """Masks that move every `interval` rounds, r_int in FLASH.

    The mean is the released code's default: a device that did not keep a weight counts
    with 0. Accuracy is that of the mask made of it, not of the union of the devices'.
    """
    return Algorithm(
        name="jmwst",
        evidence=LayerSensitivity(epochs=epochs),
        plan=random_at_evidence,
        local=partial(_rewire_every, interval),
        aggregate=partial(moving_mean, absent=1.0),
        revise=_by_budget_and_magnitude,
    )


def jmwst_every(interval: int) -> Algorithm:
    """JMWST with a name for its interval."""
    return replace(jmwst(interval=interval), name=f"jmwst-{interval}")


def _rewire_every(interval: int, moment: RoundContext) -> LocalRule:
    return Frozen() if (moment.round_no - 1) % interval else Rewire()


def _by_budget_and_magnitude(
    family: MaskFamily, model: Model, coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    """Unchanged after a frozen round: nobody's mask has moved."""
    if model.mask.digest == family.top.digest:
        return family
    budgets = layer_budgets(family.layers, coverage)
    scores, key = magnitudes(model), tie_key(family)
    return chosen(family.layers, list(family.masks), budgets, scores, key)
