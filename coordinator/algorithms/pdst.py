"""PDST (FLASH, arXiv:2208.13092, section 4): a frozen mask, uniform over layers."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.aggregate import coverage_mean
from coordinator.algorithm import (
    Algorithm,
    Family,
    always_frozen,
    keep_masks,
    same_for_all,
)
from coordinator.evidence import Findings
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
    _findings: Findings | None,
    seed: int,
) -> Family:
    """Every layer equally dense, exact counts."""
    return Family.draw(layers, nested_counts(uniform(layers), layers, densities), seed)
