"""FjORD (Horvath et al., arXiv:2102.13451): ordered dropout over nested widths.

A device trains, in each batch, one of the widths up to its own, each as often. Each
weight is averaged over those that hold it; one that nobody holds keeps its value.
"""

from __future__ import annotations

from functools import partial

from coordinator.algorithms.base import Algorithm, RoundContext, the_devices_own
from coordinator.algorithms.initial_weights import scaled_by_fan_in
from coordinator.algorithms.mean import coverage_mean
from coordinator.algorithms.unit_masks import widths
from edge_sdk.wire.rules import Frozen, LocalRule, Nested

__all__ = ["fjord"]


def fjord() -> Algorithm:
    """Without self-distillation, which the paper has as an option.

    Densities are of the task's whole network. Each width has norm statistics of its
    own, from the devices whose widest it is; in the paper others add to them.
    """
    return Algorithm(
        name="fjord",
        plan=widths,
        assign=the_devices_own,
        local=_each_as_often,
        aggregate=partial(coverage_mean, norms=True),
        start=scaled_by_fan_in,
    )


def _each_as_often(context: RoundContext) -> LocalRule:
    """The own width in one of members + 1 batches."""
    inside = context.members
    return Nested(share=inside / (inside + 1)) if inside else Frozen()
