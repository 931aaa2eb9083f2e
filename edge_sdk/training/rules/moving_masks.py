"""Training that moves its mask, and the score of every weight before there is one.

As in the warm-up the weights are dense tensors multiplied by the pattern after every
step; what a method changes is when and how the pattern moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from msgspec import UNSET, structs
from numpy.typing import NDArray

from edge_sdk.sparse import Mask, top_k
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import TaskProgress
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.training.local import Stopped, TrainingResult, batches, check_finite
from edge_sdk.training.rules.moving_checkpoint import (
    Moving,
    keep_moving,
    resume_moving,
)
from edge_sdk.training.rules.warm_up import (
    Weights,
    apply,
    layer_weights,
    rewire,
    trained,
)
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Regrow, Rewire

__all__ = ["Scorer", "regrow", "saliency", "train_moving"]

Patterns = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Scorer:
    """Examples, and how they go through a model inside the memory allowed.

    Attributes:
        task: Gives loss, preparation and augmentation.
        examples: The device's own.
        micro_batch: Most examples that go through at once; 0 takes the whole batch.
        ghost_norm: Accept batch norm's statistics per micro-batch.
    """

    task: Task
    examples: Examples
    micro_batch: int = 0
    ghost_norm: bool = False

    def session(self, model: TrainingModel, plan: Training) -> TrainingSession:
        """A session of the model on these examples; kept values are no power here."""
        return model.session(
            self.task,
            self.examples,
            structs.replace(plan, power=UNSET),
            micro_batch=self.micro_batch,
            ghost_norm=self.ghost_norm,
        )


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
        slopes, dense = _gradients(session, weights), {n: weights[n] for n in may}
        key = f"{mask.digest.hex()} {plan.seed}"
        patterns = {**patterns, **regrow(dense, slopes, may, rule.share, key)}
        apply(weights, patterns)
    seen = min(len(scorer.examples), len(steps) * plan.batch_size)
    outcome = TrainingResult(seen, len(steps), total / max(len(steps), 1), 0.0)
    return Mask(dict(patterns)), outcome


def regrow(
    weights: Mapping[str, NDArray[np.float32]],
    gradients: Mapping[str, NDArray[np.float32]],
    patterns: Patterns,
    share: float,
    key: str,
) -> dict[str, NDArray[np.bool_]]:
    """RigL's move (arXiv:1911.11134): each layer keeps its number of weights.

    Args:
        weights: Name to weights of the layer's shape, 0 off the pattern.
        gradients: Dense, alike.
        patterns: What is kept now.
        share: Of each layer's kept weights the share that is replaced, smallest
            magnitudes first, by the free places of the largest gradient magnitude.
        key: Orders equals, such as the gradients of 0 of a dead unit.
    """
    after: dict[str, NDArray[np.bool_]] = {}
    for name, pattern in patterns.items():
        kept = int(np.count_nonzero(pattern))
        gone = min(int(share * kept), pattern.size - kept)
        size = np.where(pattern, np.abs(weights[name]), -1.0)
        stays = top_k(size, kept - gone, f"{key} {name} stays")
        slope = np.where(pattern, -1.0, np.abs(gradients[name]))
        after[name] = stays | top_k(slope, gone, f"{key} {name} grows")
    return after


def saliency(
    model: TrainingModel, mask: Mask, scorer: Scorer, plan: Training, *, count: int
) -> tuple[dict[str, NDArray[np.float32]], TrainingResult]:
    """The mean of abs(weight x gradient) over minibatches, at the model as it is.

    SNIP's score (arXiv:1810.02340) averaged as SalientGrads does. Nothing is trained,
    so weights that the user has frozen are scored as any other.

    Args:
        model: Dense.
        mask: Which weights to score; canonical order.
        scorer: How a batch goes through.
        plan: Its batch size and seed choose the minibatches.
        count: Minibatches.

    Returns:
        Weight name to float32 (nnz,) scores, and what was done.
    """
    session = scorer.session(model, plan)
    weights = layer_weights(session, mask)
    score = {n: np.zeros(mask[n].shape, np.float64) for n in mask}
    total, steps = 0.0, list(batches(len(scorer.examples), plan))[:count]
    for _, index in steps:
        total += session.backward(index)
        slopes = _gradients(session, weights)
        for name in score:
            score[name] += np.abs(weights[name] * slopes[name])
    check_finite(total, scorer.task)
    own = len(scorer.examples)  # by which scores may be weighted; few were looked at
    found = {n: (s / len(steps)).astype(np.float32)[mask[n]] for n, s in score.items()}
    return found, TrainingResult(own, len(steps), total / len(steps), 0.0)


def _moves(epochs: list[int]) -> set[int]:
    """Steps before which the mask moves."""
    ends = {at for at in range(1, len(epochs)) if epochs[at] != epochs[at - 1]}
    return ends or {len(epochs) // 2} - {0}


def _gradients(session: TrainingSession, weights: Weights) -> Weights:
    """Gradients of the layers' shapes: 0 of what the forward pass does not use."""
    found = session.gradients()
    return {
        n: found[n].reshape(w.shape) if n in found else np.zeros_like(w)
        for n, w in weights.items()
    }
