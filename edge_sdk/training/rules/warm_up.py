"""FLASH's warm-up: train briefly with prune-and-regrow, return kept counts per layer.

The rule is DNR as FLASH runs it (arXiv:2208.13092, section 3.1): after each local epoch
but the last, prune the smallest magnitudes of each layer and regrow as many weights at
random places, shared out by the mean magnitude of each layer's kept weights. Counts are
exact here where the released code draws them; a layer may run empty without a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TypeAlias

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
from edge_sdk.wire.messages import Training
from edge_sdk.wire.rules import Spill, WarmUp

__all__ = [
    "Weights",
    "apply",
    "layer_weights",
    "measure_sensitivity",
    "rewire",
    "trained",
]

Patterns: TypeAlias = dict[str, NDArray[np.bool_]]
Weights: TypeAlias = dict[str, NDArray[np.float32]]
GROW_CAP = 0.99  # of a layer's free places; the rule never fills a layer entirely


def rewire(
    weights: Mapping[str, NDArray[np.float32]],
    patterns: Mapping[str, NDArray[np.bool_]],
    rate: float,
    rng: np.random.Generator,
    spill: Spill = "by-share",
) -> Patterns:
    """One prune-and-regrow step; the number of kept weights in all stays the same.

    Args:
        weights: Name to weights, each of its layer's shape, zero off the pattern.
        patterns: Name to what is kept now.
        rate: Share of each layer's kept weights to prune.
        rng: Draws the places to regrow.
        spill: Who takes what a full layer cannot: the others by their shares, or all
            of them evenly, as FLASH's released code has it.
    """
    names = list(weights)
    kept = np.array([np.count_nonzero(patterns[n]) for n in names])
    size = np.array([patterns[n].size for n in names])
    mean = np.array(
        [
            float(np.abs(weights[n][patterns[n]]).mean(dtype=np.float64)) if k else 0.0
            for n, k in zip(names, kept, strict=True)
        ]
    )
    total = mean.sum()
    usable = 0 < total < np.inf
    share = mean / total if usable else np.full(len(names), 1 / len(names))
    free = (size - kept) / size
    # An important layer that is nearly full is pruned less, or it could not regrow.
    spared = (free < 0.2) & (share > 1 / len(names))
    rates = np.where(spared, np.minimum(free, rate), rate)
    pruned = np.minimum(np.ceil(rates * kept), kept).astype(np.int64)
    after: Patterns = {}
    for name, gone in zip(names, pruned, strict=True):
        pattern = patterns[name].copy()
        places = np.flatnonzero(pattern)
        magnitude = np.nan_to_num(np.abs(weights[name].reshape(-1)[places]), nan=np.inf)
        smallest = top_k(-magnitude, int(gone), f"rewire {name}")
        pattern.reshape(-1)[places[smallest]] = False
        after[name] = pattern
    room = size - kept + pruned
    share_out = _share_out if spill == "by-share" else _spill_evenly
    grow = share_out(int(pruned.sum()), share, room)
    for name, count in zip(names, grow, strict=True):
        places = np.flatnonzero(~after[name].reshape(-1))
        chosen = rng.choice(places, size=int(count), replace=False)
        after[name].reshape(-1)[chosen] = True
    return after


def trained(
    session: TrainingSession, patterns: Mapping[str, NDArray[np.bool_]]
) -> Patterns:
    """The patterns that may move: of weights that the user has not frozen."""
    return {n: p for n, p in patterns.items() if n in session.weights}


def layer_weights(session: TrainingSession, mask: Mask) -> Weights:
    """The weights of a mask's layers, each of its layer's shape; views.

    Args:
        session: Of a model under a full mask.
        mask: Of the same layers.
    """
    return {n: w.reshape(mask[n].shape) for n, w in session.kept.items()}


def apply(
    weights: Mapping[str, NDArray[np.float32]],
    patterns: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Puts every weight off its pattern to 0, in place."""
    for name, pattern in patterns.items():
        np.multiply(weights[name], pattern, out=weights[name])


def measure_sensitivity(
    model: TrainingModel,
    mask: Mask,
    task: Task,
    examples: Examples,
    rule: WarmUp,
    plan: Training,
    *,
    micro_batch: int = 0,
    ghost_norm: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: TaskProgress | None = None,
) -> tuple[dict[str, int], TrainingResult]:
    """Kept weights per layer after the warm-up, and what training did.

    The prune rate falls linearly to 0 over the warm-up's steps. `plan.max_steps` bounds
    all epochs together; `micro_batch`, `ghost_norm` and `progress` are as in
    `local.train`. A layer that the user has frozen keeps its pattern. The model is
    trained in place, under a full mask; it begins with 0 off the mask given.

    Raises:
        Stopped: If `stop` turned true between two steps.
        DataError: If the loss is not finite.
        EngineError: If batch norm meets micro-batches without `ghost_norm`.
    """
    patterns: Patterns = {n: np.array(mask[n]) for n in mask}
    plain = structs.replace(
        plan, momentum=0.0, weight_decay=0.0, power=UNSET, clip=UNSET
    )
    session = model.session(
        task, examples, plain, micro_batch=micro_batch, ghost_norm=ghost_norm
    )
    weights = layer_weights(session, mask)
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, 0xF1A5]))
    epoch_steps = -(-plan.max_steps // plan.epochs) if plan.max_steps else 0
    per_epoch = max(1, -(-len(examples) // plan.batch_size))
    total_steps = (epoch_steps or per_epoch) * plan.epochs
    now = Moving(model, patterns, session, rng)
    resume_moving(progress, now)
    left = islice(
        batches(len(examples), plan, epoch_steps=epoch_steps),
        now.steps,
        plan.max_steps or None,
    )
    for epoch, index in left:
        if stop():
            raise Stopped
        if epoch != now.epoch:
            now.epoch = epoch
            rate = rule.prune_rate * (1 - now.steps / total_steps)
            may = trained(session, now.patterns)
            dense = {n: weights[n] for n in may}
            spill = rule.spill or "by-share"
            now.patterns |= rewire(dense, may, rate, rng, spill) if may else {}
            apply(weights, now.patterns)
        now.loss += session.backward(index)
        session.step()
        apply(weights, now.patterns)
        now.steps += 1
        keep_moving(progress, now)
    check_finite(now.loss, task)
    seen = min(len(examples), now.steps * plan.batch_size)
    outcome = TrainingResult(seen, now.steps, now.loss / max(now.steps, 1), 0.0)
    return {n: int(np.count_nonzero(p)) for n, p in now.patterns.items()}, outcome


def _share_out(
    budget: int, share: NDArray[np.float64], room: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Integers near share * budget that sum to it, none above its room."""
    cap = np.maximum(np.floor(GROW_CAP * room), 0).astype(np.int64)
    if cap.sum() < budget:  # nearly dense model: only the full room holds the budget
        cap = room.astype(np.int64)
    grow = np.zeros(len(share), np.int64)
    while (left := budget - int(grow.sum())) > 0:
        open_ = grow < cap
        weight = np.where(open_, np.maximum(share, 1e-12), 0.0)
        ideal = weight / weight.sum() * left
        step = np.minimum(np.floor(ideal).astype(np.int64), cap - grow)
        if not step.any():  # fewer left than layers: one each, largest claim first
            order = np.argsort(-ideal, kind="stable")
            step[[i for i in order if open_[i]][:left]] = 1
        grow += step
    return grow


def _spill_evenly(
    budget: int, share: NDArray[np.float64], room: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As `_share_out`; each layer takes as much of what full ones could not.

    The released code rounds every share up and draws the places, so that its sum is
    about the budget; here it is the budget.
    """
    cap = GROW_CAP * room
    if np.floor(cap).sum() < budget:
        cap = room.astype(np.float64)
    grow = share * budget
    while (over := float(np.maximum(grow - cap, 0.0).sum())) > 1e-6:
        grow = np.minimum(grow, cap) + over / len(grow)
    whole: NDArray[np.int64] = np.floor(np.minimum(grow, cap) + 1e-9).astype(np.int64)
    left = budget - int(whole.sum())
    for layer in np.argsort(-(grow - whole), kind="stable"):  # largest remainder
        extra = min(left, int(room[layer] - whole[layer]), max(1, left // len(grow)))
        whole[layer] += extra
        left -= extra
    return whole if left == 0 else whole + _share_out(left, share, room - whole)
