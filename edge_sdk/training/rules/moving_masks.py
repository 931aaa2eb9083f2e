"""Training that moves its mask.

As in the warm-up the weights are dense tensors multiplied by the pattern after every
step; what a method changes is when and how the pattern moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edge_sdk.sparse import Mask, regrow
from edge_sdk.training.checkpoint import TaskProgress
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Stopped, TrainingResult, batches, check_finite
from edge_sdk.training.rules.gradients import Scorer, layer_gradients
from edge_sdk.training.rules.moving_checkpoint import (
    Moving,
    keep_moving,
    resume_moving,
)
from edge_sdk.training.rules.warm_up import (
    apply,
    layer_weights,
    rewire,
    trained,
)
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Regrow, Rewire

__all__ = ["train_moving"]

Patterns = Mapping[str, NDArray[np.bool_]]


def train_moving(
    model: TrainingModel,
    mask: Mask,
    scorer: Scorer,
    rule: Rewire | Regrow,
    plan: Training,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: TaskProgress | None = None,
) -> tuple[Mask, TrainingResult]:
    """Trains a model under a full mask, in place, with a mask that the rule moves.

    `Rewire` prunes and regrows at random after each epoch but the last, in the middle
    of the only one, at a rate that falls linearly to 0 over all steps (FLASH's NST and
    JMWST). `Regrow` does so once, at the end, where gradients are largest (FedDST).

    Returns:
        The mask at the end, which keeps as many weights in all, and what was done.

    Raises:
        Stopped: If `stop` turned true between two steps.
        DataError: If the loss is not finite.
        EngineError: If batch norm meets micro-batches without `ghost_norm`.
    """
    session = scorer.session(model, plan)
    weights = layer_weights(session, mask)
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, 0x30E]))
    steps = list(batches(len(scorer.examples), plan))
    steps = steps[: plan.max_steps] if plan.max_steps else steps
    moves = _moves([epoch for epoch, _ in steps]) if isinstance(rule, Rewire) else set()
    now = Moving(model, {n: np.array(mask[n]) for n in mask}, session, rng)
    resume_moving(progress, now)
    for at, (_, index) in islice(enumerate(steps), now.steps, None):
        if stop():
            raise Stopped
        if at in moves and isinstance(rule, Rewire):
            rate = rule.prune_rate * (1 - at / len(steps))
            may = trained(session, now.patterns)
            dense = {n: weights[n] for n in may}
            now.patterns |= rewire(dense, may, rate, rng) if may else {}
            apply(weights, now.patterns)
        now.loss += session.backward(index)
        session.step()
        apply(weights, now.patterns)
        now.steps += 1
        keep_moving(progress, now)
    patterns, total = now.patterns, now.loss
    check_finite(total, scorer.task)
    if isinstance(rule, Regrow) and rule.share:
        session.backward(steps[0][1], augment=False)
        may = trained(session, patterns)
        slopes, dense = layer_gradients(session, weights), {n: weights[n] for n in may}
        key = f"{mask.digest.hex()} {plan.seed}"
        patterns = {**patterns, **regrow(dense, slopes, may, rule.share, key)}
        apply(weights, patterns)
    seen = min(len(scorer.examples), len(steps) * plan.batch_size)
    outcome = TrainingResult(seen, len(steps), total / max(len(steps), 1), 0.0)
    return Mask(dict(patterns)), outcome


def _moves(epochs: list[int]) -> set[int]:
    """Steps before which the mask moves."""
    ends = {at for at in range(1, len(epochs)) if epochs[at] != epochs[at - 1]}
    return ends or {len(epochs) // 2} - {0}
