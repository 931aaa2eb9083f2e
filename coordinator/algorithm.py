"""An algorithm is a frozen value of six slots; a round is what the slots say.

Five slots are pure functions that the coordinator calls; `local` is a small value that
travels to the devices. A user's own algorithm is another such value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Contribution, Model
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.messages import LocalRule, MaskRecipe

__all__ = [
    "Algorithm",
    "Counts",
    "Family",
    "LayerSensitivity",
    "Plan",
    "keep_masks",
    "same_for_all",
    "the_devices_own",
]

Counts: TypeAlias = dict[float, dict[str, int]]  # density -> weight name -> kept
# (layers, the run's densities, mean kept counts of the warm-up or None) -> counts
Plan: TypeAlias = Callable[
    [Sequence[LayerShape], Sequence[float], Mapping[str, float] | None], Counts
]
# (what each device affords, the family's densities) -> density per device
Assign: TypeAlias = Callable[[Mapping[str, float], Sequence[float]], dict[str, float]]
Aggregate: TypeAlias = Callable[
    [Model, Iterable[Contribution]], tuple[Model, dict[str, NDArray[np.int32]]]
]
Revise: TypeAlias = Callable[["Family", Model], "Family"]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """Evidence wanted: kept counts per layer after a prune-and-regrow warm-up.

    Attributes:
        epochs: Local epochs of the warm-up, E_d in FLASH.
        prune_rate: Initial prune rate, p_r in FLASH.
    """

    epochs: int = 10
    prune_rate: float = 0.25


@dataclass(frozen=True)
class Algorithm:
    """How a federation trains.

    Attributes:
        name: Its name in settings and results.
        evidence: What a warm-up has to return, or None for no warm-up.
        plan: First masks: kept counts per density and layer.
        assign: Which density each device trains at.
        local: What a device does with its task.
        aggregate: How updates become the next model.
        revise: The masks of the next round.
    """

    name: str
    evidence: LayerSensitivity | None
    plan: Plan
    assign: Assign
    local: LocalRule
    aggregate: Aggregate
    revise: Revise


@dataclass(frozen=True, eq=False)
class Family:
    """Nested masks of one seed, one per density.

    Attributes:
        seed: The masks' seed.
        counts: Kept weights per density and layer.
        masks: The masks themselves, densest first.
    """

    seed: int
    counts: Counts
    masks: Mapping[float, Mask]

    @classmethod
    def draw(cls, layers: Sequence[LayerShape], counts: Counts, seed: int) -> Family:
        """The masks of these counts."""
        densities = sorted(counts, reverse=True)
        masks = {d: draw(layers, counts[d], seed) for d in densities}
        return cls(seed, counts, masks)

    @property
    def top(self) -> Mask:
        """The largest mask, in which all others are nested."""
        return next(iter(self.masks.values()))

    def recipe(self, density: float) -> MaskRecipe:
        """What a device needs to draw one of the masks."""
        return MaskRecipe(self.seed, self.counts[density], self.masks[density].digest)


def same_for_all(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> dict[str, float]:
    """Every device trains the largest mask."""
    return dict.fromkeys(affordable, max(densities))


def the_devices_own(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> dict[str, float]:
    """Each device trains the largest mask it affords (hetero-FLASH)."""
    return {
        device: max((d for d in densities if d <= own), default=min(densities))
        for device, own in affordable.items()
    }


def keep_masks(family: Family, _model: Model) -> Family:
    """Frozen masks: the next round has the same."""
    return family
