"""Rules whose update holds the largest weights alone: SWAT, and pruning over layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_sdk.sparse import (
    LayerShape,
    exact_counts,
    largest_overall,
    uniform,
)
from edge_sdk.training.engine import TrainingModel
from edge_sdk.wire.rules import Swat, TopK

__all__ = ["returned_counts"]


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
