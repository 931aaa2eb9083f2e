"""ZeroFL (Qiu et al., arXiv:2208.02507): a dense model, trained sparsely on the device.

Devices get every weight and train with SWAT (arXiv:2001.01969): the forward pass takes
each layer's largest weights, the backward pass the largest activations, and all weights
move. Back goes the change of the largest weights, somewhat more than took part. What is
deployed is what the forward pass saw: the largest weights of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.mean import Coverage, Model, coverage_mean
from coordinator.algorithms.top_k_masks import chosen, in_full, magnitudes, tie_key
from edge_sdk.sparse import Mask, uniform
from edge_sdk.wire.rules import LocalRule, Swat

__all__ = ["zerofl"]


def zerofl(*, extra: float = 0.2) -> Algorithm:
    """ZeroFL's "diff on top-k weights", as FLASH compares with it in Table 3.

    A weight that a device does not return counts as unchanged there, so the step of a
    weight is scaled by its coverage. The model travels down dense: nothing is saved.

    Args:
        extra: Share of the weights returned beside the density's own, r_mask.
    """
    return Algorithm(
        name="zerofl",
        plan=in_full,
        local=partial(_swat, extra),
        aggregate=partial(coverage_mean, damping=1.0),
        revise=_largest_of_each_layer,
    )


def _swat(extra: float, moment: RoundContext) -> LocalRule:
    return Swat(density=moment.density, sent=min(moment.density + extra, 1.0))


def _largest_of_each_layer(
    family: MaskFamily, model: Model, _coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    profile = uniform(family.layers)
    scores, key = magnitudes(model), tie_key(family)
    return chosen(family.layers, list(family.masks), profile, scores, key)
