"""Number of weights that each layer keeps: densities and exact counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DensityError
from edge_sdk.sparse.mask import LayerShape

__all__ = [
    "check_density",
    "check_ladder",
    "erk",
    "erk_rescaled",
    "exact_counts",
    "nested_counts",
    "uniform",
]

Vector: TypeAlias = NDArray[np.float64]
FLOOR_SHARE = 0.5  # of the budget that floors of input units may take; see ADR 35


def check_density(density: float, *, what: str = "density") -> float:
    """The density itself, if it lies in (0, 1].

    Raises:
        DensityError: If it does not.
    """
    if not 0.0 < density <= 1.0:  # also refuses nan
        raise DensityError(f"{what} {density} is outside (0, 1]")
    return density


def check_ladder(layers: Sequence[LayerShape], densities: Sequence[float]) -> None:
    """Refuse densities of which one keeps less than a weight per output unit.

    Raises:
        DensityError: Names that density, the layer with most output units and the
            nearest ladder that works; or a density that is outside (0, 1].

    Example:
        >>> check_ladder([LayerShape("fc", (3, 8))], [0.5, 0.2])
        >>> check_ladder([LayerShape("fc", (3, 8))], [0.5, 0.1])
        Traceback (most recent call last):
        ...
        edge_sdk.errors.DensityError: density 0.1 keeps 2 weights; one per output unit \
takes 3, of which layer fc takes 3, so the smallest density is 0.1250; the nearest \
ladder that works is 0.125, 0.5
    """
    for density in densities:
        check_density(density, what="target density")
    size, floors = sum(s.numel for s in layers), [s.least for s in layers]
    units = sum(floors)
    low = [d for d in densities if _budget(d, size) < units]
    if not low:
        return
    least = ceil(units / size * 1e4) / 1e4
    told = _below_the_floors(max(low), layers, floors)
    nearest = ", ".join(f"{d:g}" for d in sorted({max(d, least) for d in densities}))
    if len(densities) > 1:
        told += f"; the nearest ladder that works is {nearest}"
    raise DensityError(told)


def _budget(density: float, size: float) -> int:
    """Weights that a density keeps; 0.29 * 100 is 28.999999999999996, 29 is meant."""
    return int(density * size + 1e-9)


def _below_the_floors(
    density: float, layers: Sequence[LayerShape], floors: Sequence[int]
) -> str:
    size, units = sum(s.numel for s in layers), sum(floors)
    most, name = max(zip(floors, (s.name for s in layers), strict=True))
    return (
        f"density {density} keeps {_budget(density, size)} weights; one per output "
        f"unit takes {units}, of which layer {name.removesuffix('.weight')} takes "
        f"{most}, so the smallest density is {ceil(units / size * 1e4) / 1e4:.4f}"
    )


def uniform(layers: Sequence[LayerShape]) -> Vector:
    """Every layer equally dense."""
    return np.ones(len(layers))


def erk(layers: Sequence[LayerShape]) -> Vector:
    """Erdos-Renyi kernel profile (RigL, arXiv:1911.11134, section 3): sum / product.

    A layer of shape (n0, n1, k0, k1) gets density proportional to
    (n0 + n1 + k0 + k1) / (n0 * n1 * k0 * k1), so small layers stay denser.
    """
    return np.array([sum(s.shape) / s.numel for s in layers])


def erk_rescaled(layers: Sequence[LayerShape], target: float) -> Vector:
    """Erdos-Renyi kernel densities by one factor on the *sparsities*, as FedDST does.

    Layer sparsities are 1 - sum / product, times what brings their mean over weights to
    1 - target; what leaves [0, 1] is cut. Small layers stay less dense than with `erk`,
    which scales the densities.

    Args:
        layers: The maskable layers.
        target: Density over all of them; another one is no multiple of this profile.
    """
    size = np.array([s.numel for s in layers], np.float64)
    sparsity = np.maximum(1 - erk(layers), 0.0)
    whole = float(sparsity @ size)
    factor = (1 - target) * size.sum() / whole if whole else 0.0
    return np.clip(1 - factor * sparsity, 0.0, 1.0)


def exact_counts(
    profile: Vector,
    layers: Sequence[LayerShape],
    target: float,
    *,
    within: Mapping[str, int] | None = None,
    floors: bool = True,
) -> dict[str, int]:
    """Kept weights per layer, integers that sum to floor(target * sum(numel)).

    The profile is scaled until the budget is spent, each layer between its unit floor
    and its size, then rounded by largest remainder. Floors touch every output and input
    unit (`LayerShape.floor`) where that takes at most half of the budget, or they would
    be the profile; below that they touch every output unit.

    Args:
        profile: (layers,); relative densities.
        layers: The maskable layers.
        target: Density over all of them, in (0, 1].
        within: Upper bounds per layer: the counts of a larger mask to nest in.
        floors: Whether there are floors at all; without them a layer may be empty.

    Raises:
        DensityError: If the target is out of range or below the unit floors.

    Example:
        >>> fc = LayerShape("fc", (10, 20)), LayerShape("out", (5, 10))
        >>> exact_counts(erk(fc), fc, 0.2)
        {'fc': 33, 'out': 17}
    """
    check_density(target, what="target density")
    size = np.array([s.numel for s in layers], np.float64)
    upper = (
        size
        if within is None
        else np.array([within[s.name] for s in layers], np.float64)
    )
    budget = _budget(target, float(size.sum()))
    lower = np.minimum([floors * s.floor for s in layers], upper)
    if FLOOR_SHARE * budget < lower.sum():
        lower = np.minimum([s.least for s in layers], upper)
    if budget < lower.sum():
        told = _below_the_floors(target, layers, lower.astype(int).tolist())
        raise DensityError(told)
    if budget > upper.sum():
        raise DensityError(
            f"density {target} keeps {budget} weights, more than the "
            f"{int(upper.sum())} of the mask it must nest in"
        )
    ideal = _fill(np.maximum(profile, 1e-12) * size, lower, upper, float(budget))
    counts = np.floor(ideal + 1e-9)
    short = budget - int(counts.sum())
    room = np.flatnonzero(counts < upper)
    order = room[np.argsort(-(ideal - counts)[room], kind="stable")]
    while short > 0:  # at most one pass per weight of rounding error, never many
        for layer in order[:short]:
            counts[layer] += 1
        short = budget - int(counts.sum())
        order = order[counts[order] < upper[order]]
    while short < 0:
        spare = np.flatnonzero(counts > lower)
        counts[spare[np.argmin((ideal - counts)[spare])]] -= 1
        short += 1
    return {s.name: int(k) for s, k in zip(layers, counts, strict=True)}


def nested_counts(
    profile: Vector | Callable[[float], Vector],
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    *,
    floors: bool = True,
) -> dict[float, dict[str, int]]:
    """`exact_counts` per density, each layer's count never above a larger density's.

    Together with masks that are prefixes of one keyed order (`sparse.select`), this
    makes the sub-masks nested, so they cost no bytes.

    Args:
        profile: (layers,); relative densities, or what gives them for a target.
        layers: The maskable layers.
        densities: Targets over all of them.
        floors: As of `exact_counts`.

    Raises:
        DensityError: As `check_ladder`, if there are floors.
    """
    if floors:
        check_ladder(layers, densities)
    family: dict[float, dict[str, int]] = {}
    outer: dict[str, int] | None = None
    for density in sorted(set(densities), reverse=True):
        own = profile(density) if callable(profile) else profile
        outer = exact_counts(own, layers, density, within=outer, floors=floors)
        family[density] = outer
    return family


def _fill(weight: Vector, lower: Vector, upper: Vector, budget: float) -> Vector:
    """clip(r * weight, lower, upper) with r such that it sums to the budget."""
    low, high = 0.0, float((upper / weight).max()) + 1.0
    for _ in range(200):  # halves until float64 has nothing left to halve
        middle = 0.5 * (low + high)
        if np.clip(middle * weight, lower, upper).sum() < budget:
            low = middle
        else:
            high = middle
    return np.clip(high * weight, lower, upper)
