"""Masks chosen weight by weight: the largest scores of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Coverage, Model
from edge_sdk.sparse import LayerShape, Mask, nested_counts, top_k, uniform

__all__ = ["chosen", "in_full", "layer_budgets", "magnitudes"]


def chosen(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    profile: NDArray[np.float64],
    scores: Mapping[str, NDArray[np.floating]],
    own: Mapping[str, Mask] | None = None,
) -> MaskFamily:
    """The masks of the largest scores at exact counts; smaller ones nest in larger.

    Args:
        layers: The maskable layers.
        densities: The run's densities.
        profile: (layers,); relative layer densities.
        scores: Weight name to scores of the layer's shape.
        own: Masks that devices train on by themselves.
    """
    counts = nested_counts(profile, layers, densities)
    masks = {
        density: Mask({s.name: top_k(scores[s.name], kept[s.name]) for s in layers})
        for density, kept in counts.items()
    }
    return MaskFamily(tuple(layers), masks, None, own or {})


def in_full(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """A plan for a dense global model: the full mask, uniform ones deployed from it."""
    counts = nested_counts(uniform(layers), layers, [1.0, *densities])
    return MaskFamily.draw(layers, counts, seed)


def magnitudes(model: Model) -> dict[str, NDArray[np.floating]]:
    """Absolute weights; what the model does not hold comes after its smallest."""
    return {n: np.where(model.mask[n], np.abs(model.full(n)), -1.0) for n in model.mask}


def layer_budgets(
    layers: Sequence[LayerShape], coverage: Coverage
) -> NDArray[np.float64]:
    """Relative layer densities of the devices' masks, from how often each is held."""
    return np.array([float(coverage[s.name].sum()) / s.numel for s in layers])
