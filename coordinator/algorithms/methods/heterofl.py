"""HeteroFL (Diao et al., arXiv:2010.01264): weaker devices train narrower networks.

A device keeps the first units of each layer, and all weights between them. Each weight
is averaged over those that hold it; one that nobody holds keeps its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from coordinator.algorithms.base import Algorithm, MaskFamily, the_devices_own
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.initial_weights import scaled_by_fan_in
from coordinator.algorithms.mean import Model
from coordinator.algorithms.unit_masks import widths

__all__ = ["heterofl"]

SCALER = 1.0  # power of (top inputs / own inputs): the paper's 1 / r after each layer


def heterofl() -> Algorithm:
    """Densities are of the task's whole network; the widest that is used is the model.

    The paper's scaler is folded into a narrower network's weights. Devices count by
    their examples, as in every method here; norm statistics are pooled, where the paper
    has all devices' data go through the trained model, and the loss is over all labels.
    """
    return Algorithm(
        name="heterofl", plan=widths, assign=the_devices_own, start=_with_scaler
    )


def _with_scaler(
    family: MaskFamily, state: Mapping[str, NDArray[Any]], findings: WarmUpResult | None
) -> Model:
    """A network of the largest width begins as one of that width is made."""
    return replace(scaled_by_fan_in(family, state, findings), gain=SCALER)
