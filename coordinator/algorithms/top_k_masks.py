"""Masks chosen weight by weight: the largest scores of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Coverage, Model
from edge_sdk.sparse import LayerShape, Mask, nested_counts, top_k, uniform

__all__ = ["chosen", "in_full", "layer_budgets", "magnitudes", "tie_key"]


def chosen(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    profile: NDArray[np.float64] | Callable[[float], NDArray[np.float64]],
    scores: Mapping[str, NDArray[np.floating]],
    key: str,
    own: Mapping[str, Mask] | None = None,
) -> MaskFamily:
    """The masks of the largest scores at exact counts; smaller ones nest in larger.

    Args:
        layers: The maskable layers.
        densities: The run's densities.
        profile: (layers,); relative layer densities, or what gives them for a density.
        scores: Weight name to scores of the layer's shape.
        key: Orders equal scores; `tie_key` where a mask is made anew each round.
        own: Masks that devices train on by themselves.
    """
    counts = nested_counts(profile, layers, densities)
    masks = {
        density: Mask({n: top_k(scores[n], k, f"{key} {n}") for n, k in kept.items()})
        for density, kept in counts.items()
    }
    return MaskFamily(tuple(layers), masks, None, own or {})


def tie_key(family: MaskFamily) -> str:
    """A key that no two rounds share whose masks differ: the top mask's digest."""
    return family.top.digest.hex()


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
