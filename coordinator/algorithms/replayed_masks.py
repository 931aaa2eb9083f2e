"""Masks that no device has to measure: FLASH's mask moves on the initial weights."""

from __future__ import annotations

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.evidence import Replay
from coordinator.algorithms.initial_weights import scaled_by_fan_in
from coordinator.algorithms.random_masks import random_at_evidence

__all__ = ["on_replayed_masks"]


def on_replayed_masks(name: str) -> Algorithm:
    """FedAvg on frozen masks that need no warm-up; at density 1 it is FedAvg itself.

    What optimizes otherwise starts from here and replaces the slots that differ.
    """
    plan, start = random_at_evidence, scaled_by_fan_in
    return Algorithm(name=name, plan=plan, evidence=Replay(), start=start)
