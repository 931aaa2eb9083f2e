"""FLASH as its released code draws masks: no floors, a draw for each weight, a cap.

A chain in which each differs from the one before in one thing, so that a table can say
what it is worth: `flash` has exact counts and floors of units, `flash-unfloored` exact
counts alone, `flash-released` random counts, too. Re-spending what a layer would hold
above 1 is no link of it: evidence that sums to the budget leaves nothing above 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import Algorithm, MaskFamily, the_devices_own
from coordinator.algorithms.evidence import (
    LayerSensitivity,
    WarmUpResult,
    layer_densities,
)
from coordinator.algorithms.mean import Coverage, Model, moving_mean
from coordinator.algorithms.top_k_masks import magnitudes, tie_key
from edge_sdk.sparse import (
    LayerShape,
    Mask,
    check_density,
    nested_counts,
    top_k,
    uniform,
)

__all__ = [
    "flash_released",
    "flash_unfloored",
    "hetero_flash_released",
    "largest_of_the_top",
    "pdst_released",
]


def flash_unfloored() -> Algorithm:
    """SPDST with exact counts, water-filled, whose places may leave a unit dead."""
    return Algorithm("flash-unfloored", _exact, LayerSensitivity())


def flash_released() -> Algorithm:
    """SPDST whose every weight is kept by a draw of its own, so counts are random."""
    evidence = LayerSensitivity(spill="even")
    return Algorithm("flash-released", _drawn_by_evidence, evidence)


def pdst_released() -> Algorithm:
    """PDST drawn alike: every weight kept with the density's probability."""
    return Algorithm("pdst-released", _drawn_evenly)


def hetero_flash_released() -> Algorithm:
    """hetero-FLASH whose sub-masks are the global model's largest weights, each round.

    The mean is over the devices that held a weight, and what nobody held is erased
    (`update_mode=1`). Densities stay the devices' own, not a slot's of the round.
    """
    return Algorithm(
        name="hetero-flash-released",
        evidence=LayerSensitivity(spill="even"),
        plan=_drawn_by_evidence,
        assign=the_devices_own,
        aggregate=moving_mean,
        revise=largest_of_the_top,
    )


def largest_of_the_top(
    family: MaskFamily, model: Model, _coverage: Coverage, _moved: Mapping[str, Mask]
) -> MaskFamily:
    """The top mask as it is; below it the largest weights, layers thinned alike."""
    top, scores = family.top, magnitudes(model.onto(family.top))
    key = tie_key(family)
    masks = {}
    for density, mask in family.masks.items():
        share = min(1.0, density * top.numel / max(top.nnz, 1))
        kept = {n: int(share * k) for n, k in top.counts.items()}
        thin = {n: top_k(scores[n], k, f"{key} {n}") for n, k in kept.items()}
        masks[density] = top if mask is top else Mask(thin)
    return MaskFamily(family.layers, masks, None)


def _exact(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    profile, lots = layer_densities(layers, findings), _lots(layers, seed)
    counts = nested_counts(profile, layers, densities, floors=False)
    masks = {
        density: Mask({n: top_k(-lots[n], k, n) for n, k in kept.items()})
        for density, kept in counts.items()
    }
    return MaskFamily(tuple(layers), masks, None)


def _drawn_by_evidence(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    profile = layer_densities(layers, findings)
    return _drawn(layers, densities, profile, seed)


def _drawn_evenly(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    _findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    return _drawn(layers, densities, uniform(layers), seed)


def _drawn(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    profile: NDArray[np.float64],
    seed: int,
) -> MaskFamily:
    """Weights whose lot is below their layer's min(r * profile, 1); those nest."""
    lots = _lots(layers, seed)
    size = np.array([s.numel for s in layers], np.float64)
    masks = {}
    for density in sorted(set(densities), reverse=True):
        ratio = check_density(density) * size.sum() / float(profile @ size)
        masks[density] = Mask(
            {
                s.name: lots[s.name] < min(ratio * p, 1.0)
                for s, p in zip(layers, profile, strict=True)
            }
        )
    return MaskFamily(tuple(layers), masks, None)


def _lots(layers: Sequence[LayerShape], seed: int) -> dict[str, NDArray[np.float64]]:
    """A number in [0, 1) for each weight."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x10D5]))
    return {s.name: rng.random(s.shape) for s in layers}
