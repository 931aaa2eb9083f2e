"""Orders that train no model to return: what they measure, as a payload."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_sdk.sparse import Mask
from edge_sdk.training.checkpoint import TaskProgress
from edge_sdk.training.engine import ModelSource
from edge_sdk.training.local import TrainingResult, batches, check_finite
from edge_sdk.training.rules.gradients import Scorer, saliency
from edge_sdk.training.rules.warm_up import measure_sensitivity
from edge_sdk.wire.evidence import Evidence, pack_evidence
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.rules import CandidateLosses, Score, WarmUp
from edge_sdk.wire.values import Values, pack_values

__all__ = ["measured_evidence"]


def measured_evidence(
    order: TaskOrder,
    rule: WarmUp | Score | CandidateLosses,
    models: ModelSource,
    mask: Mask,
    start: Values,
    scorer: Scorer,
    *,
    stop: Callable[[], bool],
    progress: TaskProgress | None,
) -> tuple[bytes, TrainingResult]:
    """Carry out an order for evidence; return its payload and what was done.

    Args:
        order: Its training plan and codec.
        rule: Its rule.
        models: Make the task's model with dense weights.
        mask: The order's.
        start: The base.
        scorer: How batches go through.
        stop: Turns true when the result is not wanted any more.
        progress: Where a reboot finds how far a warm-up was.

    Raises:
        Stopped: If `stop` turned true.
        DataError: If a loss is not finite.
    """
    plan = order.training
    if isinstance(rule, CandidateLosses):
        steps = [i for _, i in batches(len(scorer.examples), plan)][: rule.batches]
        most = scorer.micro_batch or max(map(len, steps))
        parts = [i[at : at + most] for i in steps for at in range(0, len(i), most)]
        losses = models.candidate_losses(rule, mask, start, scorer.examples, parts)
        mean = float(np.mean(losses))
        check_finite(mean, scorer.task)
        done = TrainingResult(len(scorer.examples), len(steps), mean, 0.0)
        return pack_evidence(Evidence({}, losses)), done
    model = models.dense(mask, start, thawed=isinstance(rule, Score))
    if isinstance(rule, WarmUp):
        counts, done = measure_sensitivity(
            *(model, mask, scorer.task, scorer.examples, rule, plan),
            micro_batch=scorer.micro_batch,
            ghost_norm=scorer.ghost_norm,
            stop=stop,
            progress=progress,
        )
        return pack_evidence(Evidence(counts)), done
    scores, done = saliency(model, mask, scorer, plan, count=rule.batches)
    found = Values(mask.digest, scores, {})
    return pack_values(found, mask, codec=order.codec), done
