"""FLASH without data: its warm-up's mask moves replayed on the initial weights.

Regrowth is shared out by mean magnitude, whatever a layer's size, so layers tend to
equal *counts* and small ones fill up first. What is left of FLASH's gain when no device
trains for it is what this control measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    always_frozen,
    as_initialised,
    keep_masks,
    same_for_all,
)
from coordinator.algorithms.evidence import Replay, WarmUpResult, layer_densities
from coordinator.algorithms.initial_weights import from_the_warm_up, scaled_by_fan_in
from coordinator.algorithms.mean import coverage_mean
from edge_sdk.sparse import LayerShape, nested_counts

__all__ = ["data_free", "equal_counts", "equal_counts_scaled"]


def equal_counts() -> Algorithm:
    """A frozen random mask at the replayed layer densities."""
    return Algorithm(
        name="equal-counts",
        evidence=Replay(),
        plan=random_at_replayed_densities,
        assign=same_for_all,
        local=always_frozen,
        aggregate=coverage_mean,
        revise=keep_masks,
    )


def equal_counts_scaled() -> Algorithm:
    """The same, its first weights scaled to the inputs that each unit keeps.

    Measured (docs/results.md): no warm-up, no byte more, and ahead of it.
    """
    start = scaled_by_fan_in
    return replace(equal_counts(), name="equal-counts-scaled", start=start)


def data_free(algorithm: Algorithm) -> Algorithm:
    """An algorithm with a warm-up, as it begins where no device could do that one.

    Its masks are those of `equal_counts`; its first weights are its own, unless they
    come out of the warm-up.
    """
    start = algorithm.start
    if start is from_the_warm_up:
        start = as_initialised
    plan = random_at_replayed_densities
    return replace(algorithm, evidence=Replay(), plan=plan, start=start)


def random_at_replayed_densities(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """The replay's layer densities, recalibrated to each target (FLASH, Eq. 2).

    Raises:
        RunError: If there is no evidence.
    """
    profile = layer_densities(layers, findings, "equal-counts")
    return MaskFamily.draw(layers, nested_counts(profile, layers, densities), seed)
