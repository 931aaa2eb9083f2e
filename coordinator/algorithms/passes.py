"""Passes that a batch takes through networks of a family, as an algorithm's slots say.

They are needed before there are masks, to say what a device affords. So the slots are
asked about a stand-in of three layers whose units can all be cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

import numpy as np

from coordinator.algorithms.base import Algorithm, RoundContext
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mask_family import MaskFamily
from coordinator.algorithms.mean import Model
from device_profiles import NetworkPass
from edge_sdk.sparse import LayerShape, Mask, Units
from edge_sdk.wire.rules import Nested, Sandwich

__all__ = ["passes_of"]

_LEAST_UNITS, _MOST_UNITS = 64, 512  # of the stand-in's layers
_PER_UNIT = 4  # weights that each keeps at the least density
_INNER = "2.weight"  # the layer with units on both sides
_ROUNDS = 100  # a round in the middle of a run


def passes_of(
    algorithm: Algorithm, densities: Sequence[float]
) -> dict[float, tuple[NetworkPass, ...]]:
    """Passes of a batch by a device's density, its own network's first.

    A density whose batches go through the whole own network alone is not in the result.
    Neither is any where the slots do not take the stand-in: an algorithm may know
    layers by their names.

    Args:
        algorithm: Its slots can be called.
        densities: The run's.
    """
    try:
        found = _found(algorithm, sorted(set(densities), reverse=True))
    except Exception:  # noqa: BLE001 - it may be right on the run's own model
        return {}
    return {d: passes for d, passes in found.items() if passes != (NetworkPass(d),)}


def _found(
    algorithm: Algorithm, densities: Sequence[float]
) -> dict[float, tuple[NetworkPass, ...]]:
    layers = _stand_in(densities[-1])
    family = algorithm.plan(layers, densities, _findings(layers, densities[0]), 1)
    widths = {density: _width(family, density) for density in densities}
    passes = {}
    for at, density in enumerate(densities):
        own, smaller = NetworkPass(density, widths[density]), densities[at + 1 :]
        inside = family.members(family.masks[density])
        context = RoundContext(_ROUNDS // 2, _ROUNDS, densities[0], len(inside))
        rule = algorithm.local(context)
        times = 0.0
        if len(inside) == len(smaller) and isinstance(rule, Nested | Sandwich):
            times = rule.share / len(inside) if isinstance(rule, Nested) else 1.0
        own_times = 1 - rule.share if isinstance(rule, Nested) and times else 1.0
        passes[density] = (
            NetworkPass(density, own.width, own_times),
            *(NetworkPass(d, widths[d], times) for d in smaller if times),
        )
    return passes


def _width(family: MaskFamily, density: float) -> float:
    """Share of its units that a mask of the family leaves the inner layer."""
    box = family.boxes.get(density, {}).get(_INNER)
    return box[0] / family.top[_INNER].shape[0] if box else 1.0


def _stand_in(least: float) -> tuple[LayerShape, ...]:
    """Three layers in a row, wide enough for the least density."""
    wanted = 2 ** ceil(log2(_PER_UNIT / least / 9))
    size = min(_MOST_UNITS, max(_LEAST_UNITS, wanted))
    shape = (size, size, 3, 3)
    made = [Units("1.weight", size), Units(_INNER, size)]
    return (
        LayerShape("1.weight", shape, outputs=made[0]),
        LayerShape(_INNER, shape, inputs=made[0], outputs=made[1]),
        LayerShape("3.weight", shape, inputs=made[1]),
    )


def _findings(layers: Sequence[LayerShape], density: float) -> WarmUpResult:
    """Whatever an algorithm may want to have found, alike for all layers."""
    scores = {
        layer.name: np.arange(1.0, layer.numel + 1).reshape(layer.shape)
        for layer in layers
    }
    values = {n: np.ones(s.size, np.float32) for n, s in scores.items()}
    whole = Model(Mask.full(layers), values, {})
    kept = {layer.name: density * layer.numel for layer in layers}
    return WarmUpResult(kept, whole, scores, losses=[1.0])
