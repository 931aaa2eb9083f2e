"""Distributed noise: parts that devices draw, and what a sum of them promises.

The distributed discrete Gaussian (Kairouz, Liu and Steinke, arXiv:2102.06387). Each
part is sized for the fewest devices whose sum is read, so whoever else is in a sum adds
to what is promised.
"""

from __future__ import annotations

import math

from edge_sdk.wire.secure.fixed_point import steps_of
from edge_sdk.wire.secure.messages import SecureNoise

__all__ = ["guaranteed", "least_survivors", "noise_parts", "steps_with_noise"]

_TAIL = 8.0  # deviations of a sum's noise that the ring has room for
_FINEST = 4096.0  # a part's deviation, in steps: smaller steps would serve nobody
_COARSEST = 0.5  # the least that the theorem holds for
_ROUNDING = 1.25  # most that rounding may add to a device's length
_SPARE = 1 + 1e-6


def least_survivors(asked: int, least: int) -> int:
    """The fewest devices whose sum is read: more than half of those that are asked.

    Args:
        asked: Devices with an order.
        least: Updates that a sum has at least by the settings.

    Example:
        >>> least_survivors(10, 3), least_survivors(4, 4)
        (6, 4)
    """
    return max(least, asked // 2 + 1)


def _longest(steps: int, ratio: float, size: int) -> int:
    """Most that the squares of a device's rounded numbers may come to.

    A random rounding keeps to it with a chance of .39 at least (there, with beta =
    exp(-1/2)), mostly by far; a device whose numbers are longer rounds again.
    """
    exact = ratio * steps
    spread = math.sqrt(size) / 2
    return math.ceil(exact**2 + spread**2 + exact + spread)


def _part(multiplier: float, longest: int, survivors: int) -> float:
    return _SPARE * multiplier * math.sqrt(longest / survivors)


def steps_with_noise(
    bits: int,
    asked: int,
    survivors: int,
    multiplier: float,
    ratio: float,
    size: int = 1,
) -> int:
    """Most steps of a value for which the ring holds all sums and their noise.

    Args:
        bits: Of the ring.
        asked: Devices with an order.
        survivors: The fewest whose sum is read.
        multiplier: Deviation of the noise on such a sum, over the longest update.
        ratio: The longest update, by its norm, over the largest value.
        size: Numbers of the vector.

    Returns:
        0 where one step is too many.
    """

    def fits(steps: int) -> bool:
        part = _part(multiplier, _longest(steps, ratio, size), survivors)
        noise = _TAIL * part * math.sqrt(asked)
        room = (1 << bits - 1) - 1
        return part <= _FINEST and asked * steps * min(1.0, ratio) + noise <= room

    low, high = 0, steps_of(bits, asked) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def noise_parts(
    steps: int,
    survivors: int,
    multiplier: float,
    ratio: float,
    size: int,
    cohort: int,
) -> SecureNoise | None:
    """Parts of the noise as devices are told; None where steps are too coarse for it.

    Args:
        steps: Of a value.
        survivors: The fewest devices whose sum is read.
        multiplier: Deviation of the noise on such a sum, over the longest update.
        ratio: The longest update, by its norm, over the largest value.
        size: Numbers of the vector.
        cohort: Devices that a sum is shared out over.
    """
    if not steps:
        return None
    longest = _longest(steps, ratio, size)
    part = _part(multiplier, longest, survivors)
    if math.sqrt(longest) > _ROUNDING * ratio * steps or not part <= _FINEST:
        return None
    noise = SecureNoise(part, survivors, cohort, longest)
    return noise if guaranteed(noise, survivors, size) >= multiplier else None


def guaranteed(noise: SecureNoise, survivors: int, size: int) -> float:
    """The noise multiplier of a Gaussian that promises what a sum's parts promise.

    Sums of discrete Gaussians are nearly discrete Gaussians: theorem 1 there bounds
    what is missing. It gives concentrated privacy, as a Gaussian mechanism does.

    Args:
        noise: What devices were told.
        survivors: Devices in the sum, of the values that the fewest hold.
        size: Numbers of the vector.

    Returns:
        0 where nothing is promised.
    """
    if noise.part < _COARSEST or survivors < 1:
        return 0.0
    exponent = 2 * (math.pi * noise.part) ** 2
    missing = 10 * sum(
        math.exp(-exponent * k / (k + 1)) for k in range(1, min(survivors, 1 << 16))
    )
    told = math.sqrt(noise.longest / survivors) / noise.part
    rho = min(math.sqrt(told**2 + missing * size / 2), told + missing * math.sqrt(size))
    return 1 / rho
