"""PruneFL (Jiang et al., arXiv:1909.12326) at a fixed density.

Every `interval` rounds, or when the data have drifted, devices send, beside their
change, the mean square gradient of every weight. The largest weights stay; what is left
of the budget goes to the weights, kept or not, whose square gradient is largest for the
time that they cost.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    RoundContext,
    always_frozen,
    keep_masks,
)
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Model
from coordinator.algorithms.random_masks import on_replayed_masks
from coordinator.algorithms.top_k_masks import chosen, magnitudes, tie_key
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import largest_overall, top_k
from edge_sdk.wire.rules import Frozen, LocalRule, Measured

__all__ = ["prunefl"]


def prunefl(
    *,
    interval: int = 50,
    share: float = 0.3,
    batches: int = 5,
    on: Algorithm | None = None,
    shift: float = 0.0,
) -> Algorithm:
    """PruneFL without what makes density its outcome: that is the run's setting.

    * A weight's time is how often an example uses it (once per output position in a
      convolution); the authors measure each layer's on a board.
    * The paper prunes on one device first. Here the first masks are those of `on`.
    * Gradients are those of the round's base; the paper's are of every local step.
    * The share that may move falls to 0 over the run, as a cosine.
    * A layer keeps at least a weight for each of its units.

    Args:
        interval: Rounds from one adjustment to the next.
        share: Of the kept weights the part that may be replaced, at first.
        batches: Minibatches over which squares are averaged.
        on: Whose first masks, warm-up and mean; masks that need no warm-up if None.
        shift: Drift of the fleet's data, since the masks were drawn, that has them
            drawn again; in place of `interval`, and `share` does not fall. 0 for none.

    Raises:
        SettingsError: If a setting is out of range, or that algorithm's masks move or
            its devices train by a rule of their own.
    """
    whole = interval >= 1 and batches >= 1
    if not (0 < share <= 1 and whole and 0 <= shift < math.inf):
        raise SettingsError(
            f"prunefl: share {share}, interval {interval}, batches {batches}, shift "
            f"{shift}; a share lies above 0 and up to 1, interval and batches are at "
            "least 1, shift is 0 or more"
        )
    inner = on or on_replayed_masks("prunefl")
    if inner.local is not always_frozen or inner.revise is not keep_masks:
        raise SettingsError(
            f"prunefl on {inner.name}: it moves masks or trains by a rule of its own",
            remedy="Take one with frozen masks: equal-counts, flash-scaled and others.",
        )
    return replace(
        inner,
        name=f"prunefl-on-{on.name}" if on else inner.name,
        local=partial(_measure_every, 0 if shift else interval, batches),
        redraw=partial(_by_gradient_and_time, share, falls=not shift),
        on_drift=shift,
    )


def _measure_every(interval: int, batches: int, context: RoundContext) -> LocalRule:
    due = context.drifted if not interval else not context.round_no % interval
    if not due or context.round_no == context.rounds:
        return Frozen()  # after the last round no device trains what would enter
    return Measured(batches=batches, squared=True)


def _by_gradient_and_time(
    share: float,
    family: MaskFamily,
    model: Model,
    findings: WarmUpResult,
    context: RoundContext,
    *,
    falls: bool = True,
) -> MaskFamily:
    """The same family where no gradient is left."""
    layers, key = family.layers, tie_key(family)
    sizes, uses = magnitudes(model), findings.uses
    gains = {s.name: findings.gradient[s.name] / uses.get(s.name, 1.0) for s in layers}
    size = np.concatenate([sizes[s.name].reshape(-1) for s in layers])
    gain = np.concatenate([gains[s.name].reshape(-1) for s in layers])
    if not gain.any():
        return family
    done = min(context.round_no / max(context.rounds, 1), 1.0) if falls else 0.0
    moving = share / 2 * (1 + math.cos(math.pi * done))
    safe = top_k(size, round((1 - moving) * family.top.nnz), key)
    # Those that stay come first, by size; then everything else, by its gain.
    ranks = np.where(safe, 2 + size / max(size.max(), 1e-30), gain / gain.max())
    parts = np.split(ranks, np.cumsum([s.numel for s in layers])[:-1])
    scores = {s.name: r.reshape(s.shape) for s, r in zip(layers, parts, strict=True)}

    def profile(density: float) -> NDArray[np.float64]:
        return largest_overall(layers, scores, density, key)

    return chosen(layers, list(family.masks), profile, scores, key)
