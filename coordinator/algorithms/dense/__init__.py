"""Means of what no mask is for: biases, norms, and norms' running statistics."""

from coordinator.algorithms.dense.entries import DenseMean, as_entry
from coordinator.algorithms.dense.norm_statistics import (
    Entries,
    NormStatistics,
    norms_in,
)

__all__ = ["DenseMean", "Entries", "NormStatistics", "as_entry", "norms_in"]
