"""Distance that SGD's steps take a weight whose gradient is 1 in each of them."""

from __future__ import annotations

__all__ = ["total_rate"]


def total_rate(rate: float, steps: int, *, momentum: float = 0.0) -> float:
    """The sum of the rates of some steps, and of what momentum makes of each.

    A change divided by it is a mean gradient. Step j moves by rate * (1 + m + ... +
    m^(j-1)), momentum m beginning at 0.

    Example:
        >>> total_rate(0.5, 3)
        1.5
        >>> total_rate(1.0, 2, momentum=0.5)  # 1, then 1.5
        2.5
    """
    if momentum == 0.0:
        return rate * steps
    part = momentum * (1 - momentum**steps) / (1 - momentum)
    return rate * (steps - part) / (1 - momentum)
