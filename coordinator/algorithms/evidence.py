"""Evidence that a warm-up is asked for, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.mean import Model
from edge_sdk.errors import RunError
from edge_sdk.sparse import LayerShape
from edge_sdk.wire.rules import Spill

__all__ = [
    "CandidateMasks",
    "Evidence",
    "LayerSensitivity",
    "Replay",
    "Saliency",
    "Trained",
    "WarmUpResult",
    "layer_densities",
]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """Evidence wanted: kept counts per layer after a prune-and-regrow warm-up.

    Attributes:
        epochs: Local epochs of the warm-up, E_d in FLASH.
        prune_rate: Initial prune rate, p_r in FLASH.
        spill: Who takes what a full layer cannot regrow; "even" in the released code.
    """

    epochs: int = 10
    prune_rate: float = 0.25
    spill: Spill = field(default="by-share", repr=False)


@dataclass(frozen=True, slots=True)
class Replay:
    """Evidence that needs no device: the warm-up's mask moves on the initial weights.

    Attributes:
        moves: Prune-and-regrow steps; FLASH's ten epochs make nine.
        prune_rate: Initial prune rate.
    """

    moves: int = 9
    prune_rate: float = 0.25


@dataclass(frozen=True, slots=True)
class Saliency:
    """Evidence wanted: |weight x gradient| of every weight at the initial model.

    Attributes:
        batches: Minibatches over which a device averages.
        everybody: Whether every device scores, not the warm-up's few.
        by_examples: Whether devices count by their examples; else all the same.
    """

    batches: int = 1
    everybody: bool = field(default=True, repr=False)
    by_examples: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Trained:
    """Evidence wanted: the weights that the same warm-up ends with, and their places.

    Attributes:
        epochs: As of `LayerSensitivity`.
        prune_rate: Alike.
    """

    epochs: int = 10
    prune_rate: float = 0.25


@dataclass(frozen=True, slots=True)
class CandidateMasks:
    """Evidence wanted: the loss of each candidate mask of the initial weights.

    Attributes:
        count: Candidates.
        spread: How far their layer densities are apart; see `candidate_counts`.
        batches: Minibatches that a device looks at.
    """

    count: int = 10
    spread: float = 0.5
    batches: int = 4


# What a warm-up can be asked for.
Evidence: TypeAlias = LayerSensitivity | Replay | Saliency | Trained | CandidateMasks


@dataclass(frozen=True, eq=False)
class WarmUpResult:
    """Result of a warm-up, or of a later round's evidence, averaged over its devices.

    Attributes:
        kept: Weight name to mean kept count.
        model: The mean of the devices' models, on the union of their masks.
        saliency: Weight name to scores >= 0, float64 of the layer's shape.
        losses: Of each candidate mask of `model`.
        gradient: Weight name to the mean gradient, or that of its square, float64 of
            the layer's shape; of the layers that were looked at.
        uses: Weight name to how often an example uses one of its weights.
    """

    kept: Mapping[str, float] = field(default_factory=dict)
    model: Model | None = None
    saliency: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    losses: Sequence[float] = ()
    gradient: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    uses: Mapping[str, float] = field(default_factory=dict)


def layer_densities(
    layers: Sequence[LayerShape], findings: WarmUpResult | None
) -> NDArray[np.float64]:
    """The evidence as layer densities, (layers,).

    Raises:
        RunError: If there is none.
    """
    if findings is None or not findings.kept:
        raise RunError("masks are planned from a warm-up's evidence; there is none")
    return np.array([findings.kept[s.name] / s.numel for s in layers])
