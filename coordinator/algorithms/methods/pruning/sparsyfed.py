"""SparsyFed (Guastella et al., arXiv:2504.05153): devices train, then prune.

A device trains every weight that the global model has, as a power of what SGD moves:
w = sign(theta) |theta|^beta. A weight that is 0 then stays 0, so that training the
whole model is training it on its non-zero weights, which is what is done and sent.
Backward, of each layer's input as large a share takes part as the layer has non-zero
weights. After training the device keeps the largest weights over all layers. The server
takes the plain mean, whose non-zero weights are those of all its devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import ANYONE, Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.mean import Coverage, Model, moving_mean
from coordinator.algorithms.top_k_masks import chosen, in_full, magnitudes, tie_key
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import Mask, largest_overall
from edge_sdk.wire.rules import LocalRule, TopK

__all__ = ["sparsyfed"]

MOST = 4.0  # as training.power has it


def sparsyfed(*, power: float = 1.25) -> Algorithm:
    """SparsyFed as far as masks that a coordinator names can hold it.

    * The mean is of the weights w; the authors' is of theta.
    * First weights are the task's own; theta is made of them.
    * Devices count by their examples.
    * Pruning has floors: a layer keeps at least a weight for each of its units.
    * The union that devices train is denser than the run's density (the first round is
      dense). What is scored and deployed at a density is its largest weights over all
      layers; the union itself is scored as density 1.

    The paper trains with rates from .5 to .01, batches of 16 and weight decay .001.

    Args:
        power: beta, above 1.

    Raises:
        SettingsError: If it is not.
    """
    if not 1 < power <= MOST:
        raise SettingsError(
            f"sparsyfed: power is {power}; it has to be above 1 and at most {MOST:g}",
            remedy="The paper has 1.25.",
        )
    return Algorithm(
        name="sparsyfed",
        plan=in_full,
        local=partial(_largest_stay, power),
        aggregate=partial(moving_mean, absent=1.0),
        revise=_union_and_its_largest,
    )


def _largest_stay(power: float, context: RoundContext) -> LocalRule:
    return TopK(density=context.density, power=power)


def _union_and_its_largest(
    family: MaskFamily, model: Model, _coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    """Devices go on from the union; below density 1 there is what is deployed."""
    layers, scores, key = family.layers, magnitudes(model), tie_key(family)

    def profile(density: float) -> NDArray[np.float64]:
        return largest_overall(layers, scores, density, key)

    own = {ANYONE: model.mask}
    return chosen(layers, list(family.masks), profile, scores, key, own)
