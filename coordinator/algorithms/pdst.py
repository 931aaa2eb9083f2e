"""PDST (FLASH, arXiv:2208.13092, section 4): a frozen mask, uniform over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.aggregate import coverage_mean
from coordinator.algorithm import Algorithm, Counts, keep_masks, same_for_all
from edge_sdk.sparse import LayerShape, nested_counts, uniform
from edge_sdk.wire.messages import Frozen

__all__ = ["pdst"]


def pdst() -> Algorithm:
    """No warm-up; the baseline that FLASH compares with."""
    return Algorithm(
        name="pdst",
        evidence=None,
        plan=uniform_random,
        assign=same_for_all,
        local=Frozen(),
        aggregate=coverage_mean,
        revise=keep_masks,
    )


def uniform_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _evidence: Mapping[str, float] | None,
) -> Counts:
    """Every layer equally dense, exact counts."""
    return nested_counts(uniform(layers), layers, densities)
