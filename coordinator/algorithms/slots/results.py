"""Results of an algorithm's slots: what each has to be, and how one differs from it.

Pure. A reason is the rest of a sentence that begins with the slot; empty is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
import numpy as np

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from edge_sdk.errors import a_type
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.wire.rules import LocalRule

__all__ = ["GIVES", "wrong_fit", "wrong_kind", "wrong_rule"]

GIVES: Mapping[str, tuple[Any, str]] = {
    "plan": (MaskFamily, "a MaskFamily"),
    "assign": (Mapping, "a density for each device"),
    "local": (get_args(LocalRule), "a rule of edge_sdk.wire.rules"),
    "aggregate": (tuple, "a pair (Model, coverage)"),
    "revise": (MaskFamily, "a MaskFamily"),
    "redraw": (MaskFamily, "a MaskFamily"),
    "start": (Model, "a Model"),
    "init_state": (Mapping, "quantity -> entry -> array"),
}
FULL = 1.0  # a plan may keep everything, whatever densities the run names


def wrong_kind(slot: str, value: object) -> str:
    """DescribeData a slot's result if its type is wrong.

    Args:
        slot: Its name.
        value: What it returned.

    Example:
        >>> wrong_kind("aggregate", None)
        'gave None, not a pair (Model, coverage)'
    """
    kinds, wanted = GIVES[slot]
    fits = isinstance(value, kinds)
    if slot == "aggregate" and isinstance(value, tuple):
        pair = zip(value, (Model, Mapping), strict=False)
        fits = len(value) == 2 and all(isinstance(v, kind) for v, kind in pair)
    return "" if fits else f"gave {_kind(value)}, not {wanted}"


def wrong_fit(slot: str, found: Any, given: tuple[Any, ...]) -> str:
    """The reason why a value of the right type does not fit the slot's arguments.

    Args:
        slot: Its name.
        found: What it returned; `wrong_kind` has nothing against it.
        given: What it was called with.
    """
    return next(_reasons(slot, found, given), "")


def _reasons(slot: str, found: Any, given: tuple[Any, ...]) -> Iterator[str]:
    match slot:
        case "plan":
            layers, densities, _, _ = given
            yield from _of_family(found, layers, {*densities, FULL})
        case "revise" | "redraw" if found is not given[0]:
            yield from _of_family(found, given[0].layers, {*given[0].masks})
        case "assign":
            yield from _of_densities(found, *given)
        case "local":
            yield from filter(None, [wrong_rule(found)])
        case "start":
            family, state, _ = given
            if found.mask != family.top:
                yield "gave a model on another mask than the largest of its family"
            dense = {n: a for n, a in state.items() if n not in family.top.layers}
            yield from _of_entries(found, dense)
            yield from _of_values(found)
        case "init_state":
            yield from _of_state(found, given[0], found)
        case "aggregate":
            (model, coverage), base = found, given[0]
            wanted = {n: base.mask[n].shape for n in base.mask}
            shapes = {n: model.mask[n].shape for n in model.mask}
            if shapes != wanted:
                yield f"gave a model whose mask is for {shapes}, not for {wanted}"
            yield from _of_entries(model, base.dense)
            yield from _of_norms(model)
            yield from _of_coverage(coverage, model)
            yield from _of_state(model.state, model, base.state)
        case _:  # revise, redraw, and the same family
            pass


def wrong_rule(rule: Any) -> str:
    """The reason why a local rule cannot be sent to devices."""
    try:
        msgspec.convert(msgspec.to_builtins(rule), type(rule))
    except (TypeError, ValueError, msgspec.ValidationError) as error:
        return f"gave {rule!r}, which cannot be sent: {error}"
    return ""


def _of_family(
    family: MaskFamily, layers: Sequence[LayerShape], densities: set[float]
) -> Iterator[str]:
    """Difference between a family's masks and the layers that they are for."""
    shapes = {s.name: s.shape for s in layers}
    masks: object = family.masks
    if not isinstance(masks, Mapping) or not masks:
        yield "gave a MaskFamily without masks"
    if {s.name: s.shape for s in family.layers} != dict(shapes):
        yield f"gave a MaskFamily whose layers are not {shapes}"
    every = [(f"density {d}", m) for d, m in family.masks.items()]
    every += [(f"device {d!r}", m) for d, m in family.own.items()]
    for what, mask in every:
        if not isinstance(mask, Mask):
            yield f"gave {_kind(mask)} as the mask of {what}, not a Mask"
        found = {name: mask[name].shape for name in mask}
        if list(found.items()) != list(shapes.items()):
            yield f"gave a mask of {what} for {found}, not for {shapes}"
        if not mask.issubset(family.top):
            yield (
                f"gave a mask of {what} that keeps weights which the first mask, the "
                "largest, does not keep"
            )
    for density in family.masks:
        if not family.masks[density].nnz:
            yield f"gave a mask of density {density} that keeps no weight"
        if type(density) is not float or density not in densities:
            yield f"gave a mask of density {density!r}, none of {sorted(densities)}"
    yield from _of_seed(family)


def _of_seed(family: MaskFamily) -> Iterator[str]:
    """Difference between masks and those that their seed draws, as devices do."""
    if family.seed is None:
        return
    if type(family.seed) is not int or not 0 <= family.seed < 1 << 63:
        yield f"gave the seed {family.seed!r}, which is no whole number from 0 on"
    for density, mask in family.masks.items():
        boxes = family.boxes.get(density, {})
        if draw(family.layers, mask.counts, family.seed, boxes) != mask:
            yield (
                f"gave a mask of density {density} that its seed {family.seed} does "
                "not draw: give seed None where masks are chosen weight by weight"
            )


def _of_densities(
    found: Mapping[str, Any], affordable: Mapping[str, float], densities: list[float]
) -> Iterator[str]:
    for device, density in found.items():
        if device not in affordable:
            yield f"gave a density to {device!r}, which was not among the devices"
        if np.ndim(density) or density not in densities:
            yield f"gave {device!r} density {density!r}, none of {densities}"
    if affordable and not found:
        yield "gave no device a density"


def _of_entries(model: Model, dense: Mapping[str, Any]) -> Iterator[str]:
    """Difference between a model's entries and those that it has to have."""
    wanted = {n: (a.shape, a.dtype) for n, a in dense.items()}
    kept = {
        n: ((count,), np.dtype(np.float32)) for n, count in model.mask.counts.items()
    }
    for entries, right, what in (
        (model.dense, wanted, "entry"),
        (model.masked, kept, "the kept values of"),
    ):
        if not isinstance(entries, Mapping):
            yield f"gave a model without {what} {', '.join(right) or 'anything'}"
        for name in [*right, *entries]:
            if name not in entries:
                yield f"gave a model without {what} {name}"
            if name not in right:
                yield f"gave {what} {name}, which the model does not have"
            value, (shape, dtype) = entries[name], right[name]
            if not isinstance(value, np.ndarray):
                yield f"gave {_kind(value)} as {what} {name}, not a numpy array"
            if value.shape != shape:
                yield f"gave {what} {name} of shape {value.shape}, not {shape}"
            if value.dtype != dtype:
                yield f"gave {what} {name} as {value.dtype}, not {dtype}"


def _of_norms(model: Model) -> Iterator[str]:
    """Difference between norm statistics of masks and the entries of these names."""
    for digest, entries in model.norms.items():
        for name in entries:
            value: Any = entries[name]
            if name not in model.travelling:
                yield f"gave norm statistics {name}, which the model does not have"
            shape = model.travelling[name].shape
            if not isinstance(value, np.ndarray) or value.shape != shape:
                yield f"gave norm statistics {name} of another shape for mask {digest}"


def _of_values(model: Model) -> Iterator[str]:
    for name, values in (*model.masked.items(), *model.dense.items()):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            yield f"gave values of {name} that are not finite"


def _of_coverage(coverage: Mapping[str, Any], model: Model) -> Iterator[str]:
    for name, count in model.mask.counts.items():
        held = coverage.get(name)
        if (
            not isinstance(held, np.ndarray)
            or held.shape != (count,)
            or held.dtype.kind not in "iuf"
        ):
            yield (
                f"gave no coverage of {name}: how many devices held each of its "
                f"{count} kept weights, an int32 array"
            )


def _of_state(
    state: Any, model: Model, before: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Difference between a state and one that can be kept after the one before."""
    if not isinstance(state, Mapping):
        yield (
            f"gave a model whose state is {_kind(state)}, not {GIVES['init_state'][1]}"
        )
    had, has = sorted(before), sorted(state)
    if had != has:
        yield f"gave a model with the state {has}, its base has {had}"
    counts = model.mask.counts
    for quantity, entries in state.items():
        if not isinstance(entries, Mapping):
            yield f"gave {_kind(entries)} as state {quantity}, not entry -> array"
        old = before[quantity]
        if set(entries) != set(old):
            lost = sorted(set(entries) ^ set(old))
            yield f"gave state {quantity} for other entries than before: {lost[0]}"
        for name, array in entries.items():
            what = f"state {quantity} of {name}"
            is_array = isinstance(array, np.ndarray)
            if not is_array or not _is_stored(array.dtype):
                kind = f"a {array.dtype} array" if is_array else _kind(array)
                yield f"gave {kind} as {what}, not an array of numbers"
            shape = (counts[name],) if name in counts else old[name].shape
            if array.shape != shape:
                yield f"gave {what} of shape {array.shape}, not {shape}"


def _is_stored(dtype: np.dtype[Any]) -> bool:
    """Return whether a checkpoint has this dtype."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return a_type(value)
