"""FedAvg (McMahan et al., arXiv:1602.05629): everything dense, the weighted mean."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from edge_sdk.sparse import LayerShape

__all__ = ["fedavg"]


def fedavg() -> Algorithm:
    """Every weight, every device."""
    return Algorithm(name="fedavg", plan=everything)


def everything(
    layers: Sequence[LayerShape],
    _densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """The full mask, whatever densities the run names."""
    return MaskFamily.draw(layers, {1.0: {s.name: s.numel for s in layers}}, seed)
