"""Nested masks by units: a weaker device keeps fewer units, and of these a share.

Of a layer with a share s of its units on either side, s * s of the weights are left. So
a density of 1/4 of the top's needs half of the units; whatever the rounding to whole
units leaves over is spent on weights, and counts are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.evidence import WarmUpResult, layer_densities
from edge_sdk.errors import DensityError
from edge_sdk.sparse import (
    Boxes,
    LayerShape,
    Mask,
    check_ladder,
    draw,
    exact_counts,
    unit_boxes,
)
from edge_sdk.sparse.units import in_box

__all__ = ["by_units", "units_at_evidence", "widths"]

WIDER = 1.02  # factor from one attempt at a share of units to the next


def by_units(
    profile: NDArray[np.float64],
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    seed: int,
) -> MaskFamily:
    """Masks whose smaller members keep the first units of each layer.

    The share of units is the root of the density over the top's, or the least above it
    whose weights, of those that the next larger mask keeps, make up the density. Layers
    whose units are not known, or cannot be cut, keep them, and lose weights alone.

    Args:
        profile: (layers,); relative layer densities.
        layers: The maskable layers with their units (`with_units`).
        densities: The run's.
        seed: What the masks are drawn from.

    Raises:
        DensityError: If a density is below one weight per output unit; names the
            nearest ladder that works.
    """
    steps = sorted(set(densities), reverse=True)
    outer = Mask.full(layers)
    masks: dict[float, Mask] = {}
    boxes: dict[float, dict[str, tuple[int, int]]] = {}
    for density in steps:
        share = sqrt(density / steps[0])
        while density not in masks:
            box = boxes[density] = unit_boxes(layers, min(share, 1.0))
            within = _kept_in_boxes(layers, outer, box)
            rows = {s.name: box.get(s.name, s.shape)[0] for s in layers}
            alive = all(within[n] >= rows[n] for n in rows)  # a weight for each unit
            try:
                if alive or share >= 1.0:
                    counts = exact_counts(profile, layers, density, within=within)
                    mask = draw(layers, counts, seed, box)
                    if share >= 1.0 or not _is_cut(layers, mask):
                        masks[density] = outer = mask
            except DensityError:
                if share >= 1.0:
                    check_ladder(layers, densities)
                    raise
            share *= WIDER
    return _family(layers, masks, seed, boxes)


def _is_cut(layers: Sequence[LayerShape], mask: Mask) -> bool:
    """True if some layer gives nothing that depends on the model's input.

    A unit is reached if one of its kept weights reads a unit that is. Where each unit
    keeps a weight, as in masks without boxes, all are.
    """
    reached: dict[str, NDArray[np.bool_]] = {}  # by units' name; absent: all are
    for layer in layers:
        pattern = mask[layer.name].reshape(*layer.shape[:2], -1)
        kept: NDArray[np.bool_] = np.any(pattern, axis=2)
        if layer.inputs is not None and layer.inputs.name in reached:
            units = reached[layer.inputs.name]
            kept = kept & np.repeat(units, layer.shape[1] // len(units))
        rows: NDArray[np.bool_] = np.any(kept, axis=1)
        if not rows.any():
            return True
        if layer.outputs is not None and layer.groups == 1:
            rows = np.any(rows.reshape(layer.outputs.size, -1), axis=1)
            name = layer.outputs.name
            reached[name] = rows | reached.get(name, np.zeros_like(rows))
    return False


def _kept_in_boxes(
    layers: Sequence[LayerShape], outer: Mask, boxes: Boxes
) -> dict[str, int]:
    """Weights of the next larger mask that are inside each layer's box."""
    found = {}
    for layer in layers:
        inside, kept = in_box(layer, boxes), outer[layer.name]
        kept = kept if inside is None else kept & inside
        found[layer.name] = int(np.count_nonzero(kept))
    return found


def units_at_evidence(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks by units at the warm-up's mean layer densities, scaled to each target.

    Raises:
        RunError: If there is no evidence.
        DensityError: As `by_units`.
    """
    return by_units(layer_densities(layers, findings), layers, densities, seed)


def widths(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Masks that keep the first units of each layer and, but for rounding, all weights.

    The share of units is the least whose weights make up the density: a network of that
    width. Layers whose units are not known, or cannot be cut, keep them. What whole
    units leave over is taken off at random, so that counts are exact.

    Raises:
        DensityError: If a density is below one weight per output unit.
    """
    masks: dict[float, Mask] = {}
    boxes: dict[float, dict[str, tuple[int, int]]] = {}
    outer = Mask.full(layers)
    size = np.array([s.numel for s in layers], np.float64)
    for density in sorted(set(densities), reverse=True):
        share = density
        while density not in masks:
            box = boxes[density] = unit_boxes(layers, min(share, 1.0))
            inside = _kept_in_boxes(layers, outer, box)
            profile = np.array([inside[s.name] for s in layers]) / size
            try:
                counts = exact_counts(profile, layers, density, within=inside)
                masks[density] = outer = draw(layers, counts, seed, box)
            except DensityError:
                if share >= 1.0:
                    check_ladder(layers, densities)
                    raise
            share *= WIDER
    return _family(layers, masks, seed, boxes)


def _family(
    layers: Sequence[LayerShape],
    masks: Mapping[float, Mask],
    seed: int,
    boxes: Mapping[float, Boxes],
) -> MaskFamily:
    """The family of masks that were drawn from the seed, each in its boxes."""
    cut = {density: box for density, box in boxes.items() if box}
    return MaskFamily(tuple(layers), masks, seed, boxes=cut)
