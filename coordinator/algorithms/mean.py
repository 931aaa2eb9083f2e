"""The coverage-aware mean: each weight averaged over the devices that held it.

A weight nobody held keeps its value (HeteroFL's and FjORD's rule; the released FLASH
code turns 0/0 into 0). Sums are float64 over contributions in a fixed order, so the
same frozen rows give the same bytes. One pass, one accumulator, whatever the cohort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.dense import DenseMean, Entries, NormStatistics
from edge_sdk.errors import RunError
from edge_sdk.sparse import Mask, unit_gains
from edge_sdk.wire.parts import Apart
from edge_sdk.wire.values import Values

__all__ = [
    "Contribution",
    "Coverage",
    "Model",
    "State",
    "clipped",
    "coverage_mean",
    "moving_mean",
]

Coverage: TypeAlias = dict[str, NDArray[np.int32]]  # of each weight of the model
# What an algorithm remembers: quantity -> entry of the model -> its values. Those of a
# masked weight are (nnz,), in the same order, and move with the mask as it does. A
# quantity whose name begins with a dot travels to the devices, beside the model.
State: TypeAlias = Mapping[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Model:
    """The global model on the largest mask of its family.

    Attributes:
        mask: The top mask; every device's mask is nested in it.
        masked: Weight name to float32 (nnz,), canonical CSR order.
        dense: Every other ``state_dict`` entry.
        state: What the algorithm remembers from round to round; it is written into the
            run's checkpoints.
        gain: Power of a unit's (inputs here / inputs that a nested mask keeps) by which
            the nested model's weights are larger; .5 keeps the variance of what the
            unit gives, 0 is no gain.
        personal: Dense entries that each device has for itself; these are the first.
        frozen: Dense entries that nobody trains.
        adapters: Name of a layer to the rank of the adapter that it has.
        norms: Digest of a mask, in hexadecimal, to the norm statistics that its network
            has in place of the dense entries of these names.
    """

    mask: Mask
    masked: Mapping[str, NDArray[np.float32]]
    dense: Mapping[str, NDArray[Any]]
    state: State = field(default_factory=dict)
    gain: float = 0.0
    personal: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    adapters: Mapping[str, int] = field(default_factory=dict)
    norms: Mapping[str, Entries] = field(default_factory=dict)

    @cached_property
    def travelling(self) -> Entries:
        """The dense entries that are in every base and every update."""
        apart = self.personal | self.frozen
        return {n: a for n, a in self.dense.items() if n not in apart}

    def dense_sent(self, mask: Mask) -> Entries:
        """The dense entries that a device of this mask is sent, and returns."""
        own = self.norms.get(mask.digest.hex()) if self.norms else None
        return {**self.travelling, **own} if own else self.travelling

    def norms_of(self, mask: Mask) -> Entries:
        """A mask's own norm statistics; none where the dense entries are its."""
        return self.norms.get(mask.digest.hex(), {})

    @property
    def apart(self) -> Apart | None:
        """The other dense entries; None where all travel."""
        if not self.personal | self.frozen:
            return None
        return Apart(
            {n: self.dense[n] for n in self.frozen},
            {n: self.dense[n] for n in self.personal},
            self.adapters,
        )

    def on(self, mask: Mask) -> Values:
        """The model that a nested mask stands for: what is trained, scored, deployed.

        Its weights are this model's, times the gain of their unit (`gains`).
        """
        dense = {**self.dense, **self.norms_of(mask)}
        if mask.digest == self.mask.digest:
            return Values(mask.digest, self.masked, dense)
        kept = {n: self.masked[n][mask.within(self.mask, n)] for n in mask}
        if self.gain:
            kept = {n: v * self.gains(mask, n) for n, v in kept.items()}
        return Values(mask.digest, kept, dense)

    def gains(self, mask: Mask, name: str) -> NDArray[np.float32]:
        """Factor on each weight that a nested mask keeps in one layer: (nnz,)."""
        return unit_gains(self.mask[name], mask[name], self.gain)

    def sent(self, mask: Mask) -> Values:
        """Values for a device of a nested mask, and state sent along.

        They are those of `on` without the entries that stay apart.

        Such a quantity's arrays are dense entries ``.quantity.entry``; no entry of a
        model begins with a dot. They are gradients: smaller where weights are larger.
        """
        whole = self.on(mask)
        values = replace(whole, dense=self.dense_sent(mask))
        along: dict[str, NDArray[Any]] = {}
        for quantity, entries in self.state.items():
            if not quantity.startswith("."):
                continue
            for name, array in entries.items():
                if name in self.masked and mask.digest != self.mask.digest:
                    array = array[mask.within(self.mask, name)]  # noqa: PLW2901
                    array = array / self.gains(mask, name)  # noqa: PLW2901
                along[f"{quantity}.{name}"] = array
        if not along:
            return values
        return Values(values.mask_digest, values.masked, {**values.dense, **along})

    def onto(self, mask: Mask) -> Model:
        """The same model kept on any other mask: 0 where it holds no value."""
        if mask.digest == self.mask.digest:
            return self
        masked = {n: self.full(n)[mask[n]] for n in mask}
        state = {
            quantity: {
                n: self._spread(n, a)[mask[n]] if n in self.masked else a
                for n, a in entries.items()
            }
            for quantity, entries in self.state.items()
        }
        return replace(self, mask=mask, masked=masked, state=state)

    def full(self, name: str) -> NDArray[np.float32]:
        """One layer's weights in their own shape, 0 off the mask."""
        return self._spread(name, self.masked[name])

    def _spread(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        spread = np.zeros(self.mask[name].shape, values.dtype)
        spread[self.mask[name]] = values
        return spread


@dataclass(frozen=True, eq=False)
class Contribution:
    """One accepted update: a device's change on its mask, and its weight.

    Attributes:
        examples: Its weight in the mean: its examples, or what of them counts.
        idle: Dense entry to True where it belongs to a unit that the mask cuts: what
            the device says of it does not count.
        total_rate: How far a gradient of 1 in every step would have moved a weight:
            the sum of its steps' rates, momentum included; 0 where it is not known.
        first: Whether no update of this device has counted before.
    """

    device: str
    mask: Mask
    examples: float
    change: Values
    idle: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    total_rate: float = 0.0
    first: bool = False


def clipped(change: Values, scale: float) -> Values:
    """A change made shorter; what it counted (integers) stays."""
    if scale == 1.0:
        return change
    factor = np.float32(scale)
    return Values(
        change.mask_digest,
        {name: factor * values for name, values in change.masked.items()},
        {n: factor * a if a.dtype.kind == "f" else a for n, a in change.dense.items()},
    )


def coverage_mean(
    base: Model,
    contributions: Iterable[Contribution],
    *,
    damping: float = 0.0,
    norms: bool = False,
) -> tuple[Model, Coverage]:
    """The next model, and how many devices held each weight of the top mask.

    Args:
        base: What every contribution is a change to.
        contributions: In a fixed order (sorted by device).
        damping: Power of a weight's coverage (share of the round's examples whose
            devices held it) that scales its step; 0 takes the full step.
        norms: Whether each mask gets norm statistics of its own; a model that has them
            keeps them.

    Returns:
        The model, and weight name to int32 (nnz,) coverage.

    Raises:
        RunError: If there is no contribution.
    """
    total = {n: np.zeros(v.shape, np.float64) for n, v in base.masked.items()}
    weight = {n: np.zeros(v.shape, np.float64) for n, v in base.masked.items()}
    coverage = {n: np.zeros(v.shape, np.int32) for n, v in base.masked.items()}
    dense = DenseMean(base.dense)
    own = NormStatistics(base.travelling, base.norms)
    spots: dict[bytes, Mapping[str, NDArray[np.int64] | slice]] = {}
    for one in contributions:
        share = float(one.examples)
        if one.mask.digest not in spots:
            spots[one.mask.digest] = _spots(one.mask, base.mask)
        for name, spot in spots[one.mask.digest].items():
            total[name][spot] += share * one.change.masked[name].astype(np.float64)
            weight[name][spot] += share
            coverage[name][spot] += 1
        dense.add(one.change.dense, share, one.idle, base.norms_of(one.mask))
        own.add(one.mask.digest, one.change.dense, share, one.idle)
    if not spots:
        raise RunError("a round without updates cannot be aggregated")
    masked: dict[str, NDArray[np.float32]] = {}
    for name, value in base.masked.items():
        held = weight[name] > 0
        step = np.zeros_like(total[name])
        np.divide(total[name], weight[name], where=held, out=step)
        if damping:
            step[held] *= (weight[name][held] / dense.weight) ** damping
        masked[name] = (value + step).astype(np.float32)
    after = replace(base, masked=masked, dense=dense.result(), state={})
    if norms or base.norms:
        after = replace(after, norms=own.result())
    return after, coverage


def _spots(mask: Mask, top: Mask) -> Mapping[str, NDArray[np.int64] | slice]:
    """Positions of a mask's values among the top's; a slice is four times as fast."""
    if mask.digest == top.digest:
        return dict.fromkeys(top, slice(None))
    return {name: mask.within(top, name) for name in top}


def moving_mean(
    base: Model, contributions: Iterable[Contribution], *, absent: float = 0.0
) -> tuple[Model, Coverage]:
    """The mean of models whose masks have moved, on the union of their masks.

    A device's weight is the base's (0 where the base holds none) plus its change.

    Args:
        base: What every contribution is a change to.
        contributions: In a fixed order (sorted by device), each on a mask of its own.
        absent: How much a device counts that did not keep a weight: 1 averages its 0
            in (the plain mean), 0 leaves it out (the mean over those that held it).

    Raises:
        RunError: If there is no contribution.
    """
    shapes = {n: base.mask[n].shape for n in base.mask}
    start = {n: base.full(n).astype(np.float64) for n in base.mask}
    total = {n: np.zeros(s, np.float64) for n, s in shapes.items()}
    weight = {n: np.zeros(s, np.float64) for n, s in shapes.items()}
    held = {n: np.zeros(s, np.int32) for n, s in shapes.items()}
    dense = DenseMean(base.dense)
    for one in contributions:
        share = float(one.examples)
        for name in base.mask:
            kept = one.mask[name]
            value = start[name][kept] + one.change.masked[name]
            total[name][kept] += share * value
            weight[name][kept] += share
            held[name][kept] += 1
        dense.add(one.change.dense, share, one.idle)
    if not dense.weight:
        raise RunError("a round without updates cannot be aggregated")
    union = Mask({n: held[n] > 0 for n in held})
    masked = {}
    for name in union:
        kept = union[name]
        by = weight[name][kept]
        by = by + absent * (dense.weight - by)
        masked[name] = (total[name][kept] / by).astype(np.float32)
    model = replace(base, mask=union, masked=masked, dense=dense.result(), state={})
    return model, {n: held[n][union[n]] for n in union}
