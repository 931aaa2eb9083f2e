"""Evidence that an algorithm asks for: whether devices can be sent an order for it."""

from __future__ import annotations

from coordinator.algorithms.evidence import (
    CandidateMasks,
    Evidence,
    LayerSensitivity,
    Replay,
    Saliency,
    Trained,
)
from coordinator.algorithms.slots.results import wrong_rule
from edge_sdk.wire.rules import CandidateLosses, LocalRule, Rewire, Score, WarmUp

__all__ = ["wrong_evidence"]

DENSITY = 0.5  # any: the run has its own


def wrong_evidence(evidence: Evidence | None) -> str:
    """The reason why no device can return it; empty if one can.

    Example:
        >>> wrong_evidence(LayerSensitivity(epochs=0))
        'asks for 0 epochs; the least is 1'
    """
    rule: LocalRule | None = None
    match evidence:
        case LayerSensitivity(epochs, prune_rate):
            rule = WarmUp(prune_rate)
        case Trained(epochs, prune_rate):
            rule = Rewire(prune_rate)
        case Replay(moves, prune_rate):
            epochs, rule = moves + 1, Rewire(prune_rate)
        case Saliency(batches):
            epochs, rule = 1, Score(batches)
        case CandidateMasks(count, spread, batches):
            epochs, rule = 1, CandidateLosses(count, DENSITY, spread, 0, batches)
        case _:
            return ""
    if type(epochs) is not int or epochs < 1:
        return f"asks for {epochs} epochs; the least is 1"
    return wrong_rule(rule)
