"""Orders of a round whose updates are masked: the ring, the clip, the sizes."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType, structs
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.privacy import PrivacySettings
from coordinator.algorithms.privacy.distributed import (
    least_survivors,
    noise_parts,
    steps_with_noise,
)
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Member
from edge_sdk.wire.secure.fixed_point import steps_of
from edge_sdk.wire.secure.messages import SecureNoise, SecureRound

__all__ = ["ladder", "masked_orders", "units_kept"]

_COARSE = 16


def ladder(family: MaskFamily) -> list[float]:
    """Densities of the masks that differ in size, smallest first."""
    found: dict[int, float] = {}
    for density, mask in family.masks.items():
        found.setdefault(mask.nnz, density)
    return [found[size] for size in sorted(found)]


def units_kept(
    family: MaskFamily, densities: Sequence[float], entries: Collection[str]
) -> dict[str, list[int]]:
    """Units that each density keeps of the entries that some density cuts.

    Args:
        family: The round's masks.
        densities: Smallest first.
        entries: Dense entries that are summed.
    """
    idle = [family.idle(family.masks[density]) for density in densities]
    whole = {n: cut.size for one in idle for n, cut in one.items() if n in entries}
    return {
        name: [
            size - int(np.count_nonzero(cut[name])) if name in cut else size
            for cut in idle
        ]
        for name, size in sorted(whole.items())
    }


def _size(entry: NDArray[Any], kept: Sequence[int] | None, at: int) -> int:
    """Values of a dense entry that the mask at a place keeps."""
    return entry.size if kept is None else kept[at] * (entry.size // len(entry))


def _nested(masks: Sequence[Mask]) -> bool:
    """Return whether each mask keeps nothing that the next larger one does not."""
    return all(
        not (small[name] & ~large[name]).any()
        for small, large in pairwise(masks)
        for name in large
    )


def masked_orders(
    orders: Mapping[str, TaskOrder],
    family: MaskFamily,
    base: Model,
    examples: Mapping[str, int],
    privacy: PrivacySettings,
    cohort: int,
) -> dict[str, TaskOrder]:
    """The orders of a round whose updates are masked.

    Args:
        orders: Device to its order.
        family: The round's masks.
        base: The global model.
        examples: Device to how many it has.
        privacy: The run's.
        cohort: Updates that a round wants; a noisy sum is shared out over so many.

    Raises:
        RunError: If masks of several densities do not share what they sum, or the ring
            is too coarse for the noise.
    """
    round_id = secrets.token_bytes(16)
    densities = ladder(family)
    masks = [family.masks[density] for density in densities]
    if len(densities) > 1 and (base.gain or family.seed is None or not _nested(masks)):
        raise RunError(
            "secure aggregation sums what devices of several densities share; masks "
            "chosen weight by weight, not within each other, or whose weights are "
            "scaled on smaller networks, share nothing to sum",
            remedy="Set one density, or leave privacy.secure_aggregation out.",
        )
    dense = {n: a for n, a in base.travelling.items() if a.dtype.kind == "f"}
    units = units_kept(family, densities, dense)
    sizes = [
        mask.nnz + sum(_size(a, units.get(n), at) for n, a in dense.items())
        for at, mask in enumerate(masks)
    ]
    members = [
        Member(dict(mask.counts), dict(family.boxes.get(density, {})))
        for density, mask in zip(densities, masks, strict=True)
    ]
    most = max(examples[device] for device in orders)
    steps: int = steps_of(privacy.ring_bits, len(orders))
    noise: SecureNoise | UnsetType = UNSET
    if privacy.noise_multiplier:
        most = 1  # all count alike
        steps, noise = _with_noise(privacy, len(orders), sizes[-1], cohort)
    kept, made = [mask.nnz for mask in masks], {}
    for device, order in orders.items():
        level = kept.index(family.of(device, order.density).nnz) + 1
        secure = SecureRound(
            id=round_id,
            bits=privacy.ring_bits,
            steps=steps,
            clip=privacy.clipping_range,
            most_examples=most,
            least=privacy.min_devices,
            sizes=sizes[:level],
            members=members[: level - 1],
            norm=privacy.clip or (0.0 if noise is UNSET else privacy.longest),
            secret=16,
            noise=noise,
            units={n: own[:level] for n, own in units.items()} or UNSET,
        )
        # The codec bounds the payload alone: a number takes at most four bytes.
        made[device] = structs.replace(order, secure=secure, codec="fp32")
    return made


def _with_noise(
    privacy: PrivacySettings, asked: int, size: int, cohort: int
) -> tuple[int, SecureNoise]:
    """Steps of a value in a round of so many devices, and their parts of the noise."""
    survivors = least_survivors(asked, privacy.min_devices)
    multiplier = privacy.noise_multiplier
    ratio = privacy.longest / privacy.clipping_range
    given = survivors, multiplier, ratio, size
    steps = steps_with_noise(privacy.ring_bits, asked, *given)
    noise = noise_parts(steps, *given, cohort)
    if noise is None:
        raise RunError(
            f"{privacy.ring_bits} bits are too few for the sum of {asked} devices with "
            f"a noise of {multiplier:g} times {privacy.longest:g} on {size} values",
            remedy="Set privacy.ring_bits = 32, or a smaller privacy.clip."
            if privacy.ring_bits == _COARSE
            else "Set a larger privacy.clip, or a smaller density.",
        )
    return steps, noise
