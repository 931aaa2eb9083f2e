"""The steps from model to model, the same in a federation and in simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    RoundContext,
    as_initialised,
)
from coordinator.algorithms.evidence import (
    CandidateMasks,
    Replay,
    Saliency,
    WarmUpResult,
)
from coordinator.algorithms.findings import mean_gradient
from coordinator.algorithms.mean import (
    Contribution,
    Coverage,
    Model,
    coverage_mean,
)
from coordinator.algorithms.slots import named_slots
from coordinator.rounds.data_statistics.question import with_statistics
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.tasks import mask_seed, warm_up_counts
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.tasks.layers import initial_state, make_model
from edge_sdk.tasks.parts.adapted_model import ranks_in
from edge_sdk.tasks.task import Task
from edge_sdk.training.rules.warm_up import rewire

__all__ = [
    "findings_at_hand",
    "first_model",
    "mean_step",
    "next_step",
    "start_model",
    "warm_up_family",
    "with_parts",
    "with_state",
]


def warm_up_family(
    algorithm: Algorithm,
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    seed: int,
) -> MaskFamily:
    """Masks of the warm-up: uniform at the top density (FLASH, stage 1).

    Where weights are scored, or candidates made of them, it is full.
    """
    scored = isinstance(algorithm.evidence, Saliency | CandidateMasks)
    counts = warm_up_counts(layers, [1.0] if scored else densities)
    return MaskFamily.draw(layers, counts, mask_seed(seed, warm_up=True))


def start_model(
    task: Task,
    seed: int,
    family: MaskFamily,
    statistics: Mapping[str, Any] | None = None,
) -> Model:
    """First model of the warm-up: the seed's initial weights, on the top mask.

    Args:
        task: Whose model.
        seed: Of the weights.
        family: The warm-up's masks.
        statistics: Of the devices' examples; None where there are none.
    """
    first = as_initialised(family, initial_state(task, seed), None)
    return with_statistics(task, with_parts(task, first), statistics)


def first_model(
    algorithm: Algorithm,
    task: Task,
    seed: int,
    family: MaskFamily,
    findings: WarmUpResult | None,
) -> Model:
    """Base of round 1; parameters that the user froze keep their initial values."""
    first = named_slots(algorithm).start(family, initial_state(task, seed), findings)
    first = with_fixed(first, None, fixed_weights(task, seed))
    return with_state(algorithm, task, with_parts(task, first))


def with_parts(task: Task, model: Model) -> Model:
    """The model knowing which of its entries stay apart.

    Args:
        task: Whose patterns are names, as `edge_sdk.tasks.parts.run_task` leaves them.
        model: Of the task.
    """
    personal, frozen = frozenset(task.personal), frozenset(task.frozen)
    ranks = ranks_in(task.model)
    return replace(model, personal=personal, frozen=frozen, adapters=ranks)


def with_state(algorithm: Algorithm, task: Task, model: Model) -> Model:
    """The model with the state of an algorithm that keeps one, begun where it has none.

    Norm statistics and other buffers are not among what `init_state` is given: a server
    step with momentum could make a variance negative.
    """
    if algorithm.init_state is None or model.state:
        return model
    moves = {n for n, p in make_model(task, 0).named_parameters() if p.requires_grad}
    moves -= set(task.personal)
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


def next_step(
    algorithm: Algorithm,
    base: Model,
    family: MaskFamily,
    contributions: Iterable[Contribution],
    context: RoundContext | None = None,
    uses: Callable[[], Mapping[str, float]] = dict,
) -> tuple[Model, MaskFamily, Coverage]:
    """The next model and masks; coverage is on the model before it was masked anew.

    The algorithm's state goes with the model: in as the base's, out as the next one's.

    Args:
        algorithm: Whose `aggregate` and `revise`.
        base: What every contribution is a change to.
        family: The round's masks.
        contributions: Sorted by device; read more than once.
        context: The round, for `redraw`; None has no masks drawn again.
        uses: Gives `WarmUpResult.uses`; called where masks are drawn again.

    Raises:
        AlgorithmError: If a slot raises, or gives what is no next model.
        RunError: If there is no contribution.
    """
    updates = _Scaled(contributions, base, family)
    slots = named_slots(algorithm)
    model, coverage = slots.aggregate(base, updates)
    after = slots.revise(family, model, coverage, updates.masks)
    if slots.redraw is not None and context is not None:
        gradient = mean_gradient(contributions)
        if gradient:
            found = WarmUpResult(gradient=gradient, uses=uses())
            after = slots.redraw(after, model.onto(after.top), found, context)
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
            yield _in_the_models_scale(_alone(one), self._base, self._family)


def _alone(one: Contribution) -> Contribution:
    """An update without the evidence beside it."""
    dense = {n: a for n, a in one.change.dense.items() if not n.startswith(".")}
    if len(dense) == len(one.change.dense):
        return one
    return replace(one, change=replace(one.change, dense=dense))


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
