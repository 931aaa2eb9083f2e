"""FedAvg (McMahan et al., arXiv:1602.05629): everything dense, the weighted mean."""

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
from edge_sdk.sparse import LayerShape

__all__ = ["fedavg"]


def fedavg() -> Algorithm:
    """Every weight, every device."""
    return Algorithm(
        name="fedavg",
        evidence=None,
        plan=everything,
        assign=same_for_all,
        local=always_frozen,
        aggregate=coverage_mean,
        revise=keep_masks,
    )


def everything(
    layers: Sequence[LayerShape],
    _densities: Sequence[float],
    _findings: Findings | None,
    seed: int,
) -> Family:
    """The full mask, whatever densities the run names."""
    return Family.draw(layers, {1.0: {s.name: s.numel for s in layers}}, seed)
