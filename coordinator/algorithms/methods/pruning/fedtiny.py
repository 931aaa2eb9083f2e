"""FedTiny (Huang et al., arXiv:2212.01977): candidate masks, then progressive pruning.

Before round 1 devices score candidate masks of the initial weights, whose layer
densities differ, with batch norm statistics of their own examples; the least mean loss
wins. Until round `stop`, every `interval` rounds, one block of layers after the other,
the last first, has its smallest weights replaced by those of the largest mean gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import CandidateMasks, WarmUpResult
from coordinator.algorithms.mean import Model
from coordinator.algorithms.top_k_masks import chosen, magnitudes, tie_key
from edge_sdk.errors import RunError, SettingsError
from edge_sdk.sparse import LayerShape, candidate_counts, regrow
from edge_sdk.wire.rules import Frozen, LocalRule, Measured

__all__ = ["fedtiny"]


def fedtiny(
    *,
    candidates: int = 10,
    spread: float = 0.5,
    interval: int = 10,
    stop: int = 100,
    blocks: int = 5,
    share: float = 0.3,
    batches: int = 1,
) -> Algorithm:
    """FedTiny, with as many exchanges as a round has.

    * A device scores with its own norm statistics; the paper has the devices' mean, in
      a further exchange.
    * Candidates keep the largest of the task's initial weights. The paper trains these
      on data of the server first: without such a start, losses tell little.
    * A device sends a block's whole gradient, the paper's the largest values of it.
    * A block is a run of layers of about the same number.
    * Gradients are those of the round's base.

    Args:
        candidates: How many masks are scored.
        spread: How far their layer densities are apart, in [0, 1).
        interval: Rounds from one adjustment to the next.
        stop: The last round of them; the share that is replaced falls to 0 until then.
        blocks: Of layers.
        share: Of a layer's kept weights the part that is replaced, at first.
        batches: Minibatches over which the gradient is averaged.

    Raises:
        SettingsError: If a setting is out of range.
    """
    counts = {"interval": interval, "stop": stop, "blocks": blocks, "batches": batches}
    wrong = [f"{name} {value}" for name, value in counts.items() if value < 1]
    wrong += [f"candidates {candidates}"] if not 1 <= candidates <= MOST else []
    wrong += [f"spread {spread}"] if not 0 <= spread < 1 else []
    wrong += [f"share {share}"] if not 0 < share < 1 else []
    if wrong:
        raise SettingsError(
            f"fedtiny: {', '.join(wrong)} is out of range",
            remedy=f"Shares lie between 0 and 1, counts are at least 1, candidates at "
            f"most {MOST}.",
        )
    return Algorithm(
        name="fedtiny",
        evidence=CandidateMasks(count=candidates, spread=spread),
        plan=partial(_least_loss, spread),
        local=partial(_measure_a_block, interval, stop, blocks, batches),
        redraw=partial(_replaced, share, stop),
    )


MOST = 64  # candidates that an order may name


def _least_loss(
    spread: float,
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """Of candidates with the same loss the first, which is the most even.

    Raises:
        RunError: If there is no evidence.
    """
    if findings is None or findings.model is None or not len(findings.losses):
        raise RunError("FedTiny plans from candidates' losses, and there is none")
    count, top = len(findings.losses), max(densities)
    best = int(np.argmin(findings.losses))
    kept = candidate_counts(layers, top, count, spread, seed)[best]
    profile = np.array([kept[s.name] / s.numel for s in layers])
    return chosen(layers, densities, profile, magnitudes(findings.model), str(seed))


def _measure_a_block(
    interval: int, stop: int, blocks: int, batches: int, context: RoundContext
) -> LocalRule:
    no = context.round_no
    if no % interval or no > stop or no == context.rounds:
        return Frozen()
    block = (blocks - no // interval) % blocks
    return Measured(batches=batches, block=block, blocks=blocks)


def _replaced(
    share: float,
    stop: int,
    family: MaskFamily,
    model: Model,
    findings: WarmUpResult,
    context: RoundContext,
) -> MaskFamily:
    """Each layer keeps its number; one without a gradient keeps its mask."""
    falling = share / 2 * (1 + math.cos(math.pi * min(context.round_no / stop, 1.0)))
    gradients = {n: g for n, g in findings.gradient.items() if g.any()}
    weights = {n: model.full(n) for n in gradients}
    patterns = {n: family.top[n] for n in gradients}
    key = tie_key(family)
    moved = regrow(weights, gradients, patterns, falling, key)
    after = {s.name: moved.get(s.name, family.top[s.name]) for s in family.layers}
    if all((after[n] == family.top[n]).all() for n in after):
        return family
    # Smaller masks keep the largest of these; what has just entered comes last.
    sizes = magnitudes(model)
    scores = {n: np.where(after[n], np.maximum(sizes[n], 0), -1.0) for n in after}
    profile = np.array(
        [np.count_nonzero(after[s.name]) / s.numel for s in family.layers]
    )
    return chosen(family.layers, list(family.masks), profile, scores, key)
