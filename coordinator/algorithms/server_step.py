"""A server step: the round's mean change is a gradient, and an optimizer follows it.

Reddi et al., arXiv:2003.00295, Algorithm 1. Which entries it moves is what the state
has quantities for: kept weights and dense parameters. Norm statistics and buffers are
the mean's. A weight that no device held in a round keeps value and moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import Aggregate, Algorithm
from coordinator.algorithms.mean import Contribution, Coverage, Model, State
from coordinator.algorithms.random_masks import on_replayed_masks
from edge_sdk.errors import SettingsError

__all__ = ["Optimizer", "Values", "mean_inside", "with_server_step"]

Values: TypeAlias = NDArray[np.float64]
# (mean change, moments before by name) -> (step to add, moments after)
Optimizer: TypeAlias = Callable[
    [Values, Mapping[str, Values]], tuple[Values, Mapping[str, Values]]
]


def with_server_step(
    name: str, on: Algorithm | None, optimizer: Optimizer, **quantities: float
) -> Algorithm:
    """An algorithm whose server steps along its mean change.

    Args:
        name: Of the method.
        on: Whose masks, warm-up and mean; frozen masks without a warm-up if None.
        optimizer: Pure, entry by entry.
        quantities: What it remembers of each entry, and its first value.

    Raises:
        SettingsError: If that algorithm remembers something itself.
    """
    inner = on or on_replayed_masks(name)
    if inner.init_state is not None:
        raise SettingsError(
            f"{name} on {inner.name}: that algorithm keeps a state of its own",
            remedy="Take one without: fedavg, flash-edge, equal-counts and others.",
        )
    return replace(
        inner,
        name=f"{name}-on-{on.name}" if on else name,
        aggregate=partial(_stepped, optimizer, inner.aggregate),
        init_state=partial(_filled, quantities),
    )


def mean_inside(aggregate: Aggregate) -> Aggregate:
    """The slot whose mean a server step follows; a slot without a step is its own."""
    if isinstance(aggregate, partial) and aggregate.func is _stepped:
        mean: Aggregate = aggregate.args[1]
        return mean
    return aggregate


def _filled(quantities: Mapping[str, float], model: Model) -> State:
    entries = {**model.masked, **model.dense}
    return {
        quantity: {
            name: np.full(array.shape, value, np.float32)
            for name, array in entries.items()
        }
        for quantity, value in quantities.items()
    }


def _stepped(
    optimizer: Optimizer,
    mean: Aggregate,
    base: Model,
    contributions: Iterable[Contribution],
) -> tuple[Model, Coverage]:
    after, coverage = mean(base, contributions)
    base = base.onto(after.mask)  # where masks have moved: 0 where it holds nothing
    masked, dense = dict(after.masked), dict(after.dense)
    state = {q: dict(entries) for q, entries in base.state.items()}
    for name in next(iter(base.state.values()), {}):
        of = masked if name in masked else dense
        before = base.masked[name] if name in masked else base.dense[name]
        held = coverage[name] > 0 if name in masked else np.ones(before.shape, np.bool_)
        change = (of[name].astype(np.float64) - before)[held]
        moments = {q: s[name][held].astype(np.float64) for q, s in state.items()}
        step, moments_after = optimizer(change, moments)
        moved = before.copy()
        moved[held] = (before[held] + step).astype(before.dtype)
        of[name] = moved
        for quantity, values in moments_after.items():
            kept = state[quantity][name].copy()
            kept[held] = values.astype(np.float32)
            state[quantity][name] = kept
    return replace(after, masked=masked, dense=dense, state=state), coverage
