"""A frozen Erdos-Renyi-kernel mask: the control that needs no warm-up."""

from __future__ import annotations

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.random_masks import erk_random

__all__ = ["erk_frozen"]


def erk_frozen() -> Algorithm:
    """FLASH with the ERK profile (RigL, arXiv:1911.11134) in place of evidence."""
    return Algorithm(name="erk", plan=erk_random)
