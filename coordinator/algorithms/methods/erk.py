"""A frozen Erdos-Renyi-kernel mask: the control that needs no warm-up."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    always_frozen,
    keep_masks,
    same_for_all,
)
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import coverage_mean
from edge_sdk.sparse import LayerShape, erk, nested_counts

__all__ = ["erk_frozen"]


def erk_frozen() -> Algorithm:
    """FLASH with the ERK profile (RigL, arXiv:1911.11134) in place of evidence."""
    return Algorithm(
        name="erk",
        evidence=None,
        plan=erk_random,
        assign=same_for_all,
        local=always_frozen,
        aggregate=coverage_mean,
        revise=keep_masks,
    )


def erk_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Small layers denser, exact counts."""
    return MaskFamily.draw(layers, nested_counts(erk(layers), layers, densities), seed)
