"""FLASH without data: its warm-up's mask moves replayed on the initial weights.

Regrowth is shared out by mean magnitude, whatever a layer's size, so layers tend to
equal *counts* and small ones fill up first. What is left of FLASH's gain when no device
trains for it is what this control measures.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.algorithms.base import Algorithm, as_initialised
from coordinator.algorithms.evidence import LayerSensitivity, Replay
from coordinator.algorithms.initial_weights import from_the_warm_up
from coordinator.algorithms.random_masks import on_replayed_masks, random_at_evidence

__all__ = ["data_free", "equal_counts", "equal_counts_scaled"]


def equal_counts() -> Algorithm:
    """A frozen random mask at the replayed layer densities."""
    return Algorithm(name="equal-counts", evidence=Replay(), plan=random_at_evidence)


def equal_counts_scaled() -> Algorithm:
    """The same, its first weights scaled to the inputs that each unit keeps.

    Measured (docs/results-appendix.md): no warm-up, no byte more, and ahead of it.
    """
    return on_replayed_masks("equal-counts-scaled")


def data_free(algorithm: Algorithm) -> Algorithm:
    """An algorithm with a warm-up, as it begins where no device could do that one.

    The layer densities are those of `equal_counts`; masks and first weights are its
    own, unless they come out of the warm-up.
    """
    start = algorithm.start
    if start is from_the_warm_up:
        start = as_initialised
    counts_do = isinstance(algorithm.evidence, LayerSensitivity)
    plan = algorithm.plan if counts_do else random_at_evidence
    return replace(algorithm, evidence=Replay(), plan=plan, start=start)
