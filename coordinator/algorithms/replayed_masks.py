"""Masks that no device has to measure: FLASH's mask moves on the initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    always_frozen,
    keep_masks,
    same_for_all,
)
from coordinator.algorithms.evidence import Replay, WarmUpResult, layer_densities
from coordinator.algorithms.initial_weights import scaled_by_fan_in
from coordinator.algorithms.mean import coverage_mean
from edge_sdk.sparse import LayerShape, nested_counts

__all__ = ["on_replayed_masks", "random_at_replayed_densities"]


def on_replayed_masks(name: str) -> Algorithm:
    """FedAvg on frozen masks that need no warm-up; at density 1 it is FedAvg itself.

    What optimizes otherwise starts from here and replaces the slots that differ.
    """
    return Algorithm(
        name=name,
        evidence=Replay(),
        plan=random_at_replayed_densities,
        assign=same_for_all,
        local=always_frozen,
        aggregate=coverage_mean,
        revise=keep_masks,
        start=scaled_by_fan_in,
    )


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
