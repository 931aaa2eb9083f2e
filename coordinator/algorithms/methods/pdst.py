"""PDST (FLASH, arXiv:2208.13092, section 4): a frozen mask, uniform over layers."""

from __future__ import annotations

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.random_masks import uniform_random

__all__ = ["pdst"]


def pdst() -> Algorithm:
    """No warm-up; the baseline that FLASH compares with."""
    return Algorithm(name="pdst", plan=uniform_random)
