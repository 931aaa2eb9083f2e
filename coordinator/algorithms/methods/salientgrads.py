"""SalientGrads (arXiv:2304.07488): one static mask of the most salient weights.

Devices score every weight of the initial model once. The mask keeps the largest mean
scores over all layers, with our floors, so that no layer collapses; it is sent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import Saliency, WarmUpResult
from coordinator.algorithms.top_k_masks import chosen
from edge_sdk.errors import RunError
from edge_sdk.sparse import LayerShape, check_density, largest_overall
from edge_sdk.wire.rules import LocalRule, OneStep

__all__ = ["salientgrads", "salientgrads_steps", "ssfl"]


def salientgrads(*, batches: int = 4) -> Algorithm:
    """The released code's form: FedAvg of the weights under the mask.

    Args:
        batches: Minibatches that each device scores over; every device does, as in
            the paper ("a few"; the released code takes one).
    """
    evidence = Saliency(batches=batches)
    return Algorithm(name="salientgrads", evidence=evidence, plan=most_salient)


def ssfl() -> Algorithm:
    """SSFL (the same authors): one minibatch each, scores weighted by examples."""
    evidence = Saliency(batches=1, by_examples=True)
    return Algorithm(name="ssfl", evidence=evidence, plan=most_salient)


def salientgrads_steps() -> Algorithm:
    """The paper's form: a round is one minibatch, whose sparse gradients are averaged.

    A device's change after one step of plain SGD is its gradient times the rate, so the
    mean of the changes is the step on the mean gradient. Ask every device in each round
    (cohort = devices) for the paper's fully synchronous training.
    """
    return replace(salientgrads(), name="salientgrads-steps", local=_one_step)


def most_salient(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Layer budgets as the largest scores over all layers fall; exact, with floors.

    Raises:
        RunError: If there is no evidence.
        DensityError: For a density outside (0, 1].
    """
    if findings is None or not findings.saliency:
        raise RunError("SalientGrads plans from saliency, and there is none")
    scores = {s.name: findings.saliency[s.name] for s in layers}
    top = check_density(max(densities))
    profile = largest_overall(layers, scores, top, str(seed))
    return chosen(layers, densities, profile, scores, str(seed))


def _one_step(_moment: RoundContext) -> LocalRule:
    return OneStep()
