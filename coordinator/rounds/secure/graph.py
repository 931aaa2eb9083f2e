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

__all__ = [
    "COLLUDING",
    "LOST",
    "chance_of_abort",
    "chance_to_learn",
    "degree_for",
    "holders",
    "threshold_of",
]

FULL = 30  # devices up to which all are neighbours
LOST = 0.3  # share of a cohort that may be lost after its keys are here
COLLUDING = 0.2  # share of it that may tell the coordinator all they know
_ABORTS = 1e-3  # chance that so many lost end a round, by name; nothing is learned
_LEARNS = 2.0**-40  # chance that so many colluding, and so many lost, reveal a device


def threshold_of(count: int) -> int:
    """Holders that give back a secret: more than half.

    Example:
        >>> [threshold_of(count) for count in (2, 3, 4, 5, 100)]
        [2, 2, 3, 3, 51]
    """
    return count // 2 + 1


@lru_cache(maxsize=64)
def degree_for(devices: int) -> int:
    """Neighbours of each device: the fewest that keep to both chances above.

    Every device's holders are a random set of the others, so the chances are sums of
    the hypergeometric distribution over all devices (Bell et al., section 3).

    Example:
        >>> [degree_for(count) for count in (3, 30, 100, 1000)]
        [2, 29, 48, 118]
    """
    most = min(devices - 1, MOST_HOLDERS - 1)
    if devices > FULL:
        for degree in range(2, most, 2):
            given = devices, degree
            if chance_of_abort(*given) < _ABORTS and chance_to_learn(*given) < _LEARNS:
                return degree
    return most


def chance_of_abort(devices: int, degree: int) -> float:
    """Bound on the chance that some device's secret cannot be given back.

    Args:
        devices: In the cohort; the share `LOST` of them is lost.
        degree: Neighbours of each, all of which hold shares, as it does itself.
    """
    count = degree + 1
    lost = math.ceil(LOST * devices)
    return devices * _tail(devices, lost, count, count - threshold_of(count) + 1)


def chance_to_learn(devices: int, degree: int) -> float:
    """Bound on the chance that the coordinator and its accomplices learn an update.

    They do if they hold enough shares of somebody's secret; or if the others that
    arrived fall into parts between which there are no masks, so that each part's sum
    shows: two gaps of half a degree in the circle.

    Args:
        devices: In the cohort; the share `COLLUDING` of them are accomplices, and the
            share `LOST` is lost.
        degree: Neighbours of each.
    """
    accomplices = math.floor(COLLUDING * devices)
    enough = threshold_of(degree + 1)
    shares = devices * _tail(devices - 1, accomplices, degree, enough)
    away = min(devices, accomplices + math.ceil(LOST * devices))
    gaps = math.comb(devices, 2) * _tail(devices, away, degree, degree)
    return shares + gaps


def _tail(devices: int, marked: int, drawn: int, least: int) -> float:
    """Chance that at least so many of those drawn are marked (hypergeometric)."""
    ways = sum(
        math.comb(marked, here) * math.comb(devices - marked, drawn - here)
        for here in range(least, min(drawn, marked) + 1)
    )
    return ways / math.comb(devices, drawn)


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
