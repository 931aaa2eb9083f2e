"""SCAFFOLD (Karimireddy et al., arXiv:1910.06378): control variates against drift.

Each device remembers the mean gradient of its last training, c_i, and the coordinator
their mean, c; a device's gradients are corrected by c - c_i. Both are of kept weights
and trained parameters only. c travels down with the model; nothing more travels up: by
option II a device's change says what becomes of its c_i, so the coordinator reckons it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import (
    Aggregate,
    Algorithm,
    RoundContext,
    always_frozen,
)
from coordinator.algorithms.mean import Contribution, Coverage, Model, State
from coordinator.algorithms.random_masks import on_replayed_masks
from edge_sdk.errors import SettingsError
from edge_sdk.wire.rules import Controlled, LocalRule

__all__ = ["scaffold"]

OURS, HELD = ".control", "control_devices"


def scaffold(*, on: Algorithm | None = None) -> Algorithm:
    """Option II, with the mean over those devices that have been asked so far.

    The paper divides by all devices, those that were never asked included, whose c_i is
    0: its c begins small and this one does not. Where weight decay or a bound on the
    gradient is set, both are part of what c_i is the mean of.

    Args:
        on: Whose masks, warm-up and mean; frozen masks without a warm-up if None.

    Raises:
        SettingsError: If that algorithm trains by a rule of its own, or remembers
            something itself.
    """
    inner = on or on_replayed_masks("scaffold")
    if inner.local is not always_frozen or inner.init_state is not None:
        raise SettingsError(
            f"scaffold on {inner.name}: it has a rule or a state of its own",
            remedy="Take one with frozen masks: fedavg, flash-scaled and others.",
        )
    return replace(
        inner,
        name=f"scaffold-on-{on.name}" if on else inner.name,
        local=_controlled,
        aggregate=partial(_with_control, inner.aggregate),
        init_state=_nothing_yet,
    )


def _controlled(_context: RoundContext) -> LocalRule:
    return Controlled()


def _nothing_yet(model: Model) -> State:
    entries = {**model.masked, **model.dense}
    return {
        OURS: {n: np.zeros(a.shape, np.float32) for n, a in entries.items()},
        HELD: {n: np.zeros(a.shape, np.int32) for n, a in entries.items()},
    }


def _with_control(
    mean: Aggregate, base: Model, contributions: Iterable[Contribution]
) -> tuple[Model, Coverage]:
    """The mean, and c as the mean of the devices' c_i after this round.

    n devices have c_i whose mean is c; those of this round add c_i+ - c_i = -c - change
    / (K eta), whatever their c_i was, and a device that is new makes n larger.
    """
    ours, held = base.state[OURS], base.state[HELD]
    total = {n: held[n] * c.astype(np.float64) for n, c in ours.items()}
    count = {n: h.copy() for n, h in held.items()}

    def passing() -> Iterator[Contribution]:
        for one in contributions:
            if one.total_rate > 0:
                _add(one, base, total, count)
            yield one

    after, coverage = mean(base, passing())
    control = {n: (total[n] / np.maximum(count[n], 1)).astype(np.float32) for n in ours}
    return replace(after, state={OURS: control, HELD: count}), coverage


def _add(
    one: Contribution,
    base: Model,
    total: dict[str, NDArray[np.float64]],
    count: dict[str, NDArray[np.int32]],
) -> None:
    for name, c in base.state[OURS].items():
        spot: NDArray[np.int64] | slice = slice(None)
        change = one.change.dense.get(name)
        if name in one.change.masked:
            change = one.change.masked[name]
            if one.mask.digest != base.mask.digest:
                spot = one.mask.within(base.mask, name)
                # The change is in the model's weights, its gradient in the device's.
                change = change * base.gains(one.mask, name) ** 2
        if change is not None:
            counts = ~one.idle.get(name, np.zeros(c[spot].shape, np.bool_))
            step = -c[spot] - change.astype(np.float64) / one.total_rate
            total[name][spot] += counts * step
            count[name][spot] += counts & one.first
