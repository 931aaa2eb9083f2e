"""Gradients of every weight of a model as it is: evidence of where weights are wanted.

Nothing is trained. A weight that the user has frozen is scored for a first mask, and
has no gradient later: its mask is not to move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET, structs
from numpy.typing import NDArray

from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.training.local import TrainingResult, batches, check_finite
from edge_sdk.training.rules.warm_up import Weights, layer_weights
from edge_sdk.wire.evidence import GRADIENT, block_of
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Measured

__all__ = ["Scorer", "gradients_beside", "layer_gradients", "saliency"]

Array = NDArray[np.float32]


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


def saliency(
    model: TrainingModel, mask: Mask, scorer: Scorer, plan: Training, *, count: int
) -> tuple[Weights, TrainingResult]:
    """The mean of abs(weight x gradient) over minibatches, at the model as it is.

    SNIP's score (arXiv:1810.02340) averaged as SalientGrads does.

    Args:
        model: Dense, with gradients of frozen weights too.
        mask: Which weights to score; canonical order.
        scorer: How a batch goes through.
        plan: Its batch size and seed choose the minibatches.
        count: Minibatches.

    Returns:
        Weight name to float32 (nnz,) scores, and what was done.
    """
    found, done = _mean(
        *(model, mask, list(mask), scorer, plan, count), lambda w, g: np.abs(w * g)
    )
    return {n: score[mask[n]] for n, score in found.items()}, done


def gradients_beside(
    rule: Measured, model: TrainingModel, mask: Mask, scorer: Scorer, plan: Training
) -> Weights:
    """The mean gradient of a rule's layers over minibatches, or that of its square.

    Args:
        rule: Which layers, how many minibatches, and whether squares.
        model: Dense.
        mask: Its names say which layers there are.
        scorer: How a batch goes through.
        plan: Its batch size and seed choose the minibatches.

    Returns:
        Entry beside an update to float32 of the weight's shape.
    """
    names = block_of(rule, list(mask))
    score = np.square if rule.squared else np.positive
    found, _ = _mean(
        *(model, mask, names, scorer, plan, rule.batches), lambda _, g: score(g)
    )
    return {f"{GRADIENT}{name}": array for name, array in found.items()}


def _mean(
    model: TrainingModel,
    mask: Mask,
    names: Sequence[str],
    scorer: Scorer,
    plan: Training,
    count: int,
    score: Callable[[Array, Array], Array],
) -> tuple[Weights, TrainingResult]:
    session = scorer.session(model, plan)
    weights = layer_weights(session, mask)
    total = {n: np.zeros(mask[n].shape, np.float64) for n in names}
    loss, steps = 0.0, list(batches(len(scorer.examples), plan))[:count]
    for _, index in steps:
        loss += session.backward(index)
        slopes = layer_gradients(session, weights)
        for name in names:
            total[name] += score(weights[name], slopes[name])
    check_finite(loss, scorer.task)
    own = len(scorer.examples)  # by which scores may be weighted; few were looked at
    found = {n: (s / len(steps)).astype(np.float32) for n, s in total.items()}
    return found, TrainingResult(own, len(steps), loss / len(steps), 0.0)


def layer_gradients(session: TrainingSession, weights: Weights) -> Weights:
    """Gradients of the layers' shapes: 0 of what the forward pass does not use."""
    found = session.gradients()
    return {
        n: found[n].reshape(w.shape) if n in found else np.zeros_like(w)
        for n, w in weights.items()
    }
