"""The steps from model to model, the same in a federation and in simulation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import Algorithm, MaskFamily, as_initialised
from coordinator.algorithms.evidence import Replay, Saliency, WarmUpResult
from coordinator.algorithms.mean import (
    Contribution,
    Coverage,
    Model,
    coverage_mean,
    moving_mean,
)
from coordinator.algorithms.slots import named_slots
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.tasks import mask_seed, warm_up_counts
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.tasks.layers import initial_state, make_model
from edge_sdk.tasks.task import Task
from edge_sdk.training.rules.warm_up import rewire
from edge_sdk.wire.evidence import Evidence
from edge_sdk.wire.values import Values

__all__ = [
    "findings_at_hand",
    "first_model",
    "mean_findings",
    "mean_step",
    "next_step",
    "start_model",
    "trained_findings",
    "warm_up_family",
    "with_state",
]

BY_MEDIAN = 3  # reports; of two nobody can tell which lies
FARTHEST = 4.0  # from the median; honest devices are within a few percent of it


def warm_up_family(
    algorithm: Algorithm,
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    seed: int,
) -> MaskFamily:
    """Masks of the warm-up: uniform at the top density (FLASH, stage 1).

    Saliency scores every weight, so there the mask is full.
    """
    scored = isinstance(algorithm.evidence, Saliency)
    counts = warm_up_counts(layers, [1.0] if scored else densities)
    return MaskFamily.draw(layers, counts, mask_seed(seed, warm_up=True))


def start_model(task: Task, seed: int, family: MaskFamily) -> Model:
    """First model of the warm-up: the seed's initial weights, on the top mask."""
    return as_initialised(family, initial_state(task, seed), None)


def first_model(
    algorithm: Algorithm,
    task: Task,
    seed: int,
    family: MaskFamily,
    findings: WarmUpResult | None,
) -> Model:
    """Base of round 1; parameters that the user froze keep their initial values."""
    first = named_slots(algorithm).start(family, initial_state(task, seed), findings)
    return with_state(
        algorithm, task, with_fixed(first, None, fixed_weights(task, seed))
    )


def with_state(algorithm: Algorithm, task: Task, model: Model) -> Model:
    """The model with the state of an algorithm that keeps one, begun where it has none.

    Norm statistics and other buffers are not among what `init_state` is given: a server
    step with momentum could make a variance negative.
    """
    if algorithm.init_state is None or model.state:
        return model
    moves = {n for n, p in make_model(task, 0).named_parameters() if p.requires_grad}
    dense = {n: a for n, a in model.dense.items() if n in moves}
    first = named_slots(algorithm).init_state
    return replace(model, state=first(replace(model, dense=dense)) if first else {})


def findings_at_hand(
    algorithm: Algorithm,
    task: Task,
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    seed: int,
) -> WarmUpResult | None:
    """Findings that need no device; None if the algorithm asks for none of these."""
    if not isinstance(algorithm.evidence, Replay):
        return None
    start = warm_up_family(algorithm, layers, densities, seed).top
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xF1A5]))
    return _replay(initial_state(task, seed), start, algorithm.evidence, rng)


def mean_findings(
    reports: Iterable[Evidence | Values],
    layers: Sequence[LayerShape],
    weights: Sequence[float] = (),
) -> WarmUpResult:
    """The mean of what the warm-up's devices returned.

    Of three or more devices none says less than a quarter or more than four times what
    the median says of a layer: one that lies neither starves a layer nor feeds it all.

    Args:
        reports: Kept counts, or scores of every weight; at least one.
        layers: The maskable layers.
        weights: How much each device's scores count; empty counts all the same. Kept
            counts always count the same.

    Raises:
        ValueError: If there are not as many weights as reports.
    """
    kept: dict[str, list[int]] = {s.name: [] for s in layers}
    scores = {s.name: np.zeros(s.shape) for s in layers}
    whole, scored = 0.0, False
    shares = iter(weights) if weights else itertools.repeat(1.0)
    pairs = zip(reports, shares, strict=bool(weights))
    for report, share in pairs:
        whole += share
        for s in layers:
            if isinstance(report, Evidence):
                kept[s.name].append(report.counts[s.name])
            else:
                scored = True
                one = report.masked[s.name].astype(np.float64)
                scores[s.name] += share * np.abs(one).reshape(s.shape)
    if scored:
        return WarmUpResult(saliency={n: total / whole for n, total in scores.items()})
    return WarmUpResult(kept={n: _bounded_mean(counts) for n, counts in kept.items()})


def _bounded_mean(counts: Sequence[int]) -> float:
    middle = sorted(counts)[(len(counts) - 1) // 2]
    if len(counts) >= BY_MEDIAN:
        low, high = middle / FARTHEST, middle * FARTHEST
        return sum(min(max(count, low), high) for count in counts) / len(counts)
    return sum(counts) / len(counts)


def trained_findings(
    base: Model, contributions: Iterable[Contribution]
) -> WarmUpResult:
    """The mean of the warm-up's models; a weight's over the devices that kept it.

    Args:
        base: What the warm-up started from.
        contributions: Sorted by device, each on a mask of its own.
    """
    reports = list(contributions)
    model, coverage = moving_mean(base, reports)
    kept = {n: float(held.sum()) / len(reports) for n, held in coverage.items()}
    return WarmUpResult(kept=kept, model=model)


def next_step(
    algorithm: Algorithm,
    base: Model,
    family: MaskFamily,
    contributions: Iterable[Contribution],
) -> tuple[Model, MaskFamily, Coverage]:
    """The next model and masks; coverage is on the model before it was masked anew.

    The algorithm's state goes with the model: in as the base's, out as the next one's.

    Args:
        algorithm: Whose `aggregate` and `revise`.
        base: What every contribution is a change to.
        family: The round's masks.
        contributions: Sorted by device.

    Raises:
        AlgorithmError: If a slot raises, or gives what is no next model.
        RunError: If there is no contribution.
    """
    updates = _Scaled(contributions, base, family)
    slots = named_slots(algorithm)
    model, coverage = slots.aggregate(base, updates)
    after = slots.revise(family, model, coverage, updates.masks)
    return model.onto(after.top), after, coverage


def mean_step(
    base: Model, family: MaskFamily, contributions: Iterable[Contribution]
) -> Model:
    """The next model by the plain mean, whatever algorithm a run has.

    Raises:
        MaskMismatchError: If a contribution's mask has moved.
    """
    return coverage_mean(base, _Scaled(contributions, base, family))[0]


class _Scaled:
    """A round's contributions in the model's scale, as often as wanted.

    Attributes:
        masks: Device to the mask that its update stands on, of those read so far.
    """

    def __init__(
        self, contributions: Iterable[Contribution], base: Model, family: MaskFamily
    ) -> None:
        self._contributions, self._base, self._family = contributions, base, family
        self.masks: dict[str, Mask] = {}

    def __iter__(self) -> Iterator[Contribution]:
        for one in self._contributions:
            self.masks[one.device] = one.mask
            yield _in_the_models_scale(one, self._base, self._family)


def _in_the_models_scale(
    one: Contribution, base: Model, family: MaskFamily
) -> Contribution:
    """A change to the nested model as a change to the global one: `Model.on` undone."""
    idle = family.idle(one.mask)
    if not base.gain or one.mask.digest == base.mask.digest:
        return replace(one, idle=idle) if idle else one
    masked = {n: v / base.gains(one.mask, n) for n, v in one.change.masked.items()}
    return replace(one, change=replace(one.change, masked=masked), idle=idle)


def _replay(
    initial: Mapping[str, NDArray[np.float32]],
    start: Mask,
    rule: Replay,
    rng: np.random.Generator,
) -> WarmUpResult:
    """The warm-up's prune-and-regrow with its falling rate, and no training between.

    A weight that is regrown has its initial value, not 0, or the next move would prune
    it at once.
    """
    patterns = {name: np.array(start[name]) for name in start}
    for move in range(1, rule.moves + 1):
        weights = {n: initial[n] * patterns[n] for n in patterns}
        rate = rule.prune_rate * (1 - move / (rule.moves + 1))
        patterns = rewire(weights, patterns, rate, rng)
    return WarmUpResult(
        kept={n: float(np.count_nonzero(p)) for n, p in patterns.items()}
    )
