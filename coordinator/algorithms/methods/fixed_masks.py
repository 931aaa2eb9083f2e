"""Algorithms whose masks need neither data nor a warm-up, and never move."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.random_masks import erk_random, uniform_random
from edge_sdk.sparse import LayerShape

__all__ = ["erk_frozen", "fedavg", "pdst"]


def fedavg() -> Algorithm:
    """FedAvg (McMahan et al., arXiv:1602.05629): every weight, every device."""
    return Algorithm(name="fedavg", plan=_everything)


def pdst() -> Algorithm:
    """PDST (FLASH, arXiv:2208.13092, section 4), its baseline: uniform over layers."""
    return Algorithm(name="pdst", plan=uniform_random)


def erk_frozen() -> Algorithm:
    """FLASH with the ERK profile (RigL, arXiv:1911.11134) in place of evidence."""
    return Algorithm(name="erk", plan=erk_random)


def _everything(
    layers: Sequence[LayerShape],
    _densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """The full mask, whatever densities the run names."""
    return MaskFamily.draw(layers, {1.0: {s.name: s.numel for s in layers}}, seed)
