"""Rules whose update holds the largest weights alone: SWAT, and pruning over layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from edge_sdk.sparse import (
    LayerShape,
    Mask,
    exact_counts,
    largest_overall,
    uniform,
)
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.rules.swat import swat_model
from edge_sdk.wire.rules import Swat, TopK

__all__ = ["returned_counts", "with_sparse_passes"]


def with_sparse_passes(
    rule: Swat | TopK, module: nn.Module, mask: Mask, layers: Sequence[LayerShape]
) -> TrainingModel:
    """The model, changed in place, with the rule's passes through its layers.

    Args:
        rule: SWAT takes the largest weights forward, the other one all that there are.
        module: Fresh.
        mask: What is trained.
        layers: The maskable layers.

    Raises:
        EngineError: If a layer has no such passes.
    """
    if isinstance(rule, Swat):
        taking_part = exact_counts(uniform(layers), layers, rule.density)
        shares = dict.fromkeys(taking_part, rule.density)
        return swat_model(module, mask, taking_part, shares)
    sizes = {s.name: s.numel for s in layers}
    shares = {n: kept / sizes[n] for n, kept in mask.counts.items()}
    return swat_model(module, mask, sizes, shares)


def returned_counts(
    rule: Swat | TopK, model: TrainingModel, layers: Sequence[LayerShape], key: str
) -> dict[str, int]:
    """Weight name to how many of the trained model's largest weights are returned.

    Args:
        rule: SWAT returns the same share of each layer, the other one what is largest
            over all layers, with their floors.
        model: Trained.
        layers: The maskable layers.
        key: Orders equal weights.
    """
    if isinstance(rule, Swat):
        return exact_counts(uniform(layers), layers, rule.sent)
    weights = {n: np.abs(w) for n, w in model.values().items()}
    profile = largest_overall(layers, weights, rule.density, key)
    return exact_counts(profile, layers, rule.density, within=model.mask.counts)
