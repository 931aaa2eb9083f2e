"""Neighbours of a secure round: who holds whose shares, and masks with whom.

Bell et al., CCS 2020: devices in a random circle, each with the nearest on either side
(a Harary graph). Drawn from the round's id, so a coordinator that starts again has the
same. All are neighbours while they are few.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from functools import lru_cache

from edge_sdk.wire.secure.messages import MOST_HOLDERS

__all__ = ["LOST", "degree_for", "holders", "threshold_of"]

FULL = 30  # devices up to which all are neighbours
LOST = 0.3  # share of a cohort that may be lost between two steps
_FAILS = 1e-6  # chance, then, that a secret of some device cannot be given back


def threshold_of(count: int) -> int:
    """Holders that give back a secret: more than half.

    Example:
        >>> [threshold_of(count) for count in (2, 3, 4, 5, 100)]
        [2, 2, 3, 3, 51]
    """
    return count // 2 + 1


@lru_cache(maxsize=64)
def degree_for(devices: int) -> int:
    """Neighbours of each device; grows with the logarithm of their number.

    Example:
        >>> [degree_for(count) for count in (3, 30, 100, 1000)]
        [2, 29, 58, 168]
    """
    if devices <= FULL:
        return devices - 1
    for degree in range(FULL, min(devices - 1, MOST_HOLDERS - 1), 2):
        if devices * _too_few(devices, degree) < _FAILS:
            return degree
    return min(devices - 1, MOST_HOLDERS - 1)


def _too_few(devices: int, degree: int) -> float:
    """Chance that fewer than the threshold of one device's holders are left."""
    holders, left = degree + 1, devices - math.ceil(LOST * devices)
    ways = math.comb(devices, holders)
    few = sum(
        math.comb(left, here) * math.comb(devices - left, holders - here)
        for here in range(threshold_of(holders))
    )
    return few / ways


def holders(
    devices: Mapping[str, int], round_id: bytes, degree: int = 0
) -> dict[str, tuple[str, ...]]:
    """Each device's holders, itself among them, by name.

    Devices that send more than others have neighbours among those that send as much,
    too: what only they send is masked by them alone.

    Args:
        devices: Device to its level, from 1.
        round_id: The round's.
        degree: Neighbours of each; 0 chooses as many as `degree_for`.
    """
    found: dict[str, set[str]] = {device: {device} for device in devices}
    for level in sorted(set(devices.values())):
        _add_circle([d for d, own in devices.items() if own >= level],
                    round_id, degree, found)  # fmt: skip
    return {device: tuple(sorted(peers)) for device, peers in sorted(found.items())}


def _add_circle(
    devices: Collection[str], round_id: bytes, degree: int, found: dict[str, set[str]]
) -> None:
    def place(device: str) -> bytes:
        return hashlib.sha256(round_id + device.encode()).digest()

    circle = sorted(devices, key=place)
    count = len(circle)
    wanted = min(degree or degree_for(count), count - 1)
    for at, device in enumerate(circle):
        for step in range(1, (wanted + 1) // 2 + 1):
            other = circle[(at + step) % count]
            if other != device:
                found[device].add(other)
                found[other].add(device)
