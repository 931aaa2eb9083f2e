"""The slots of an algorithm in a run: what each gives, and errors by the slot's name.

A slot is the user's own code. What it raises, or gives in place of what it should, is
an `AlgorithmError` that names the slot: no device is taken to be the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.mean import Model
from edge_sdk.errors import AlgorithmError, DensityError, RunError, StateError
from edge_sdk.tasks.user_errors import place_of
from edge_sdk.wire.rules import LocalRule

__all__ = ["MAX_FAILURES", "named_slots", "run_failed", "wrong_state", "wrong_value"]

# So many rounds in a row in which a slot fails end the run: it is a function of model
# and updates, so it mostly fails again; other devices may yet bring other updates.
MAX_FAILURES = 3

_GIVES: Mapping[str, tuple[Any, str]] = {
    "plan": (MaskFamily, "a MaskFamily"),
    "assign": (Mapping, "a density for each device"),
    "local": (get_args(LocalRule), "a rule of edge_sdk.wire.rules"),
    "aggregate": (tuple, "a pair (Model, coverage)"),
    "revise": (MaskFamily, "a MaskFamily"),
    "start": (Model, "a Model"),
    "init_state": (Mapping, "quantity -> entry -> array"),
}
SAID = 400  # characters of an exception that a message repeats


def named_slots(algorithm: Algorithm) -> Algorithm:
    """The same algorithm; what goes wrong in a slot is raised under the slot's name.

    Errors of the run itself, such as a disk that refuses while updates are read, pass
    as they are.

    Args:
        algorithm: Any.

    Returns:
        An algorithm whose slots raise `AlgorithmError`.
    """
    slots: dict[str, Any] = {
        slot: _named(algorithm.name, slot, getattr(algorithm, slot))
        for slot in _GIVES
        if getattr(algorithm, slot) is not None
    }
    return replace(algorithm, **slots)


def run_failed(round_no: int, error: AlgorithmError) -> AlgorithmError:
    """The error of a run that ends because its algorithm has failed too often.

    Args:
        round_no: The last round that failed.
        error: What it failed of.
    """
    return AlgorithmError(
        f"the algorithm failed in {MAX_FAILURES} rounds in a row; the last was round "
        f"{round_no}: {error}",
        remedy=error.help,
    )


def wrong_value(slot: str, value: object) -> str:
    """Describe a slot's result if its type is wrong.

    Args:
        slot: Its name.
        value: What it returned.

    Returns:
        The rest of a sentence that begins with the slot; empty if the kind is right.

    Example:
        >>> wrong_value("aggregate", None)
        'gave None, not a pair (Model, coverage)'
    """
    kinds, wanted = _GIVES[slot]
    fits = isinstance(value, kinds)
    if slot == "aggregate" and isinstance(value, tuple):
        pair = zip(value, (Model, Mapping), strict=False)
        fits = len(value) == 2 and all(isinstance(v, kind) for v, kind in pair)
    if slot == "init_state" and isinstance(value, Mapping):
        fits = all(
            isinstance(entries, Mapping)
            and all(isinstance(array, np.ndarray) for array in entries.values())
            for entries in value.values()
        )
    return "" if fits else f"gave {_kind(value)}, not {wanted}"


def wrong_state(model: Model, base: Model) -> str:
    """The reason why a model's state cannot follow its base's, as in `wrong_value`."""
    had, has = sorted(base.state), sorted(model.state)
    if had == has:
        return ""
    return f"gave a model with the state {has}, its base has {had}"


def _named(algorithm: str, slot: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def named(*given: Any) -> Any:
        try:
            found = call(*given)
        except (DensityError, RunError, StateError):
            raise
        except Exception as error:
            said, at = " ".join(str(error).split())[:SAID], place_of(error)
            raise _error(
                *(algorithm, slot),
                f"raised {type(error).__name__}: {said}" + (f" ({at})" if at else ""),
            ) from error
        wrong = wrong_value(slot, found) or _misfit(slot, found, given)
        if wrong:
            raise _error(algorithm, slot, wrong)
        return found

    return named


def _error(algorithm: str, slot: str, why: str) -> AlgorithmError:
    return AlgorithmError(f"slot {slot} of algorithm {algorithm!r} {why}")


def _misfit(slot: str, found: Any, given: tuple[Any, ...]) -> str:
    """The reason why a value of the right type does not fit the slot's arguments."""
    if slot == "aggregate":
        return _other_entries(found[0], given[0]) or wrong_state(found[0], given[0])
    if slot == "assign":
        affordable, densities = given
        for device, density in found.items():
            if device not in affordable:
                return f"gave a density to {device!r}, which was not among the devices"
            if density not in densities:
                return f"gave {device!r} density {density!r}, none of {list(densities)}"
    if slot in ("plan", "revise"):
        first = given[0]
        shapes = {s.name: s.shape for s in getattr(first, "layers", first)}
        return _other_masks(found, shapes)
    return ""


def _other_masks(family: MaskFamily, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Difference between a family's masks and the layers that they are for."""
    for density, mask in family.masks.items():
        found = {name: mask[name].shape for name in mask}
        if found != dict(shapes):
            return f"gave a mask of density {density} for {found}, not for {shapes}"
    return "" if family.masks else "gave a MaskFamily without masks"


def _other_entries(model: Model, base: Model) -> str:
    """Difference between a model's entries and those of its base."""
    found, wanted = _shapes(model), _shapes(base)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            return (
                f"gave entry {name} of shape {found.get(name)}, not {wanted.get(name)}"
            )
    for name, count in model.mask.counts.items():
        if name not in model.masked or model.masked[name].shape != (count,):
            return f"gave other values of {name} than the {count} that its mask keeps"
    return ""


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    masks = {name: model.mask[name].shape for name in model.mask}
    return masks | {name: array.shape for name, array in model.dense.items()}


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
