"""Orders of a round whose updates are masked: the ring, the clip, the sizes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from msgspec import UNSET, UnsetType, structs

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.privacy import PrivacySettings
from coordinator.algorithms.privacy.distributed import (
    least_survivors,
    noise_parts,
    steps_with_noise,
)
from edge_sdk.errors import RunError
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import Member
from edge_sdk.wire.secure.fixed_point import steps_of
from edge_sdk.wire.secure.messages import SecureNoise, SecureRound

__all__ = ["ladder", "masked_orders"]

_COARSE = 16


def ladder(family: MaskFamily) -> list[float]:
    """Densities of the masks that differ in size, smallest first."""
    found: dict[int, float] = {}
    for density, mask in family.masks.items():
        found.setdefault(mask.nnz, density)
    return [found[size] for size in sorted(found)]


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
    if len(densities) > 1 and (family.boxes or base.gain or family.seed is None):
        raise RunError(
            "secure aggregation sums what devices of several densities share; masks "
            "by units, or chosen weight by weight, share no positions to sum",
            remedy="Set one density, or leave privacy.secure_aggregation out.",
        )
    masks = [family.masks[density] for density in densities]
    dense = sum(a.size for a in base.travelling.values() if a.dtype.kind == "f")
    sizes = [mask.nnz + dense for mask in masks]
    members = [Member(dict(mask.counts)) for mask in masks]
    most = max(examples[device] for device in orders)
    steps: int = steps_of(privacy.ring_bits, len(orders))
    noise: SecureNoise | UnsetType = UNSET
    if privacy.noise_multiplier:
        most = 1  # all count alike
        steps, noise = _with_noise(privacy, len(orders), sizes[-1], cohort)
    made = {}
    for device, order in orders.items():
        level = sizes.index(family.of(device, order.density).nnz + dense) + 1
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
