"""PDST (FLASH, arXiv:2208.13092, section 4): a frozen mask, uniform over layers."""

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
from edge_sdk.sparse import LayerShape, nested_counts, uniform

__all__ = ["pdst"]


def pdst() -> Algorithm:
    """No warm-up; the baseline that FLASH compares with."""
    return Algorithm(
        name="pdst",
        evidence=None,
        plan=uniform_random,
        assign=same_for_all,
        local=always_frozen,
        aggregate=coverage_mean,
        revise=keep_masks,
    )


def uniform_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Every layer equally dense, exact counts."""
    return MaskFamily.draw(
        layers, nested_counts(uniform(layers), layers, densities), seed
    )
