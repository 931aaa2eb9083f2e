"""Plans that draw masks at random: given layer densities, exact counts, nested."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.evidence import Replay, WarmUpResult, layer_densities
from coordinator.algorithms.initial_weights import scaled_by_fan_in
from edge_sdk.sparse import LayerShape, erk, erk_rescaled, nested_counts, uniform

__all__ = [
    "erk_random",
    "on_replayed_masks",
    "random_at_evidence",
    "rescaled_erk_random",
    "uniform_random",
]


def erk_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks at ERK densities (RigL, arXiv:1911.11134): small layers are denser."""
    return MaskFamily.draw(layers, nested_counts(erk(layers), layers, densities), seed)


def rescaled_erk_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks at FedDST's ERK densities: one factor on the layers' sparsities."""
    profile = partial(erk_rescaled, layers)
    return MaskFamily.draw(layers, nested_counts(profile, layers, densities), seed)


def uniform_random(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks in which every layer is equally dense."""
    counts = nested_counts(uniform(layers), layers, densities)
    return MaskFamily.draw(layers, counts, seed)


def random_at_evidence(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks at the warm-up's mean layer densities, scaled to each target.

    FLASH, arXiv:2208.13092, Eq. 2.

    Raises:
        RunError: If there is no evidence.
    """
    profile = layer_densities(layers, findings)
    return MaskFamily.draw(layers, nested_counts(profile, layers, densities), seed)


def on_replayed_masks(name: str) -> Algorithm:
    """FedAvg on frozen masks that need no warm-up; at density 1 it is FedAvg itself.

    FLASH's mask moves are replayed on the initial weights. What optimizes otherwise
    starts from here and replaces the slots that differ.
    """
    plan, start = random_at_evidence, scaled_by_fan_in
    return Algorithm(name=name, plan=plan, evidence=Replay(), start=start)
