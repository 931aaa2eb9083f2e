"""Slots of an algorithm in a run: what each has to give, and errors by their names."""

from coordinator.algorithms.slots.named import MAX_FAILURES, named_slots, run_failed

__all__ = ["MAX_FAILURES", "named_slots", "run_failed"]
