"""All that a slot of one's own gives is checked; what it raises is named after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import coordinator
from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.load import check_algorithm
from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from coordinator.algorithms.slots import named_slots
from edge_sdk.errors import AlgorithmError, DensityError, SettingsError, StateError
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.wire.rules import Proximal
from edge_sdk.wire.values import Values

ERK = replace(coordinator.erk_frozen(), name="mine")
LAYERS = (LayerShape("a.weight", (16, 12)), LayerShape("b.weight", (12, 16)))
DENSITIES = [0.5, 0.25]
STATE = {s.name: np.ones(s.shape, np.float32) for s in LAYERS} | {
    "a.bias": np.zeros(16, np.float32)
}
FAMILY = ERK.plan(LAYERS, DENSITIES, None, 1)
BASE = ERK.start(FAMILY, STATE, None)
UPDATES = [
    Contribution(d, BASE.mask, 1.0, Values(BASE.mask.digest, BASE.masked, BASE.dense))
    for d in ("pi-1", "pi-2")
]
EACH = {"v": {n: np.zeros_like(a) for n, a in BASE.masked.items()}}

Change = Callable[[Any], Any]


def aggregate(change: Change) -> Any:
    """A mean whose model is changed."""

    def found(base: Model, updates: Any) -> Any:
        model, coverage = coverage_mean(base, updates)
        return change(model), coverage

    return found


def coverage(change: Change) -> Any:
    """A mean whose coverage is changed."""

    def found(base: Model, updates: Any) -> Any:
        model, held = coverage_mean(base, updates)
        return model, {n: change(a) for n, a in held.items()}

    return found


def plan(change: Change) -> Any:
    return lambda *given: change(ERK.plan(*given))


def start(change: Change) -> Any:
    return lambda *given: change(ERK.start(*given))


def masked(change: Change) -> Change:
    return lambda m: replace(m, masked={n: change(v) for n, v in m.masked.items()})


def dense(change: Change) -> Change:
    return lambda m: replace(m, dense={n: change(v) for n, v in m.dense.items()})


def masks(change: Change) -> Change:
    return lambda f: replace(f, masks={d: change(m) for d, m in f.masks.items()})


def empty(mask: Mask) -> Mask:
    return Mask({n: np.zeros_like(mask[n]) for n in mask})


WRONG = {
    "float64 values": ("aggregate", aggregate(masked(np.float64)), "as float64, not"),
    "values as lists": ("aggregate", aggregate(masked(list)), "a list as the kept val"),
    "no values": ("aggregate", aggregate(lambda m: replace(m, masked=None)), "without"),
    "a value more": (
        "aggregate",
        aggregate(lambda m: replace(m, masked={**m.masked, "c": np.ones(3)})),
        "the kept values of c, which the model does not have",
    ),
    "float64 entries": ("aggregate", aggregate(dense(np.float64)), "entry .*bias as"),
    "entries as lists": ("aggregate", aggregate(dense(list)), "a list as entry"),
    "no mask": (
        "aggregate",
        aggregate(lambda m: replace(m, mask=None)),
        "cannot be us",
    ),
    "a state": ("aggregate", aggregate(lambda m: replace(m, state=EACH)), "the state"),
    "no coverage": ("aggregate", coverage(lambda _: None), "gave no coverage of"),
    "short coverage": ("aggregate", coverage(lambda a: a[:1]), "gave no coverage of"),
    "another seed": ("plan", plan(lambda f: replace(f, seed=f.seed + 1)), "does not d"),
    "a numpy seed": ("plan", plan(lambda f: replace(f, seed=np.int64(1))), "no whole"),
    "other densities": (
        "plan",
        plan(lambda f: replace(f, masks={0.9: f.top})),
        r"density 0\.9, none of",
    ),
    "masks as dicts": (
        "plan",
        plan(masks(lambda m: {**m.layers})),
        "a dict as the mask of density",
    ),
    "masks as a list": (
        "plan",
        plan(lambda f: replace(f, masks=[f.top])),
        "without ma",
    ),
    "empty masks": ("plan", plan(masks(empty)), "keeps no weight"),
    "no layers": (
        "plan",
        plan(lambda f: replace(f, layers=())),
        "whose layers are not",
    ),
    "own masks": (
        "revise",
        lambda f, _m, _c, moved: replace(f, own=dict.fromkeys(moved)),
        "None as the mask of device",
    ),
    "no number": (
        "start",
        start(masked(lambda v: v * np.float32("nan"))),
        "not finite",
    ),
    "no entries": ("start", start(lambda m: replace(m, dense={})), "without entry"),
    "a short state": ("init_state", lambda _: {"v": {"a.weight": 3}}, "not an array"),
    "texts": ("init_state", lambda _: {"v": {"x": np.array(["a"])}}, "not an array of"),
    "a numpy share": ("local", lambda _: Proximal(mu=np.float64(1)), "cannot be sent"),
    "an exit": ("local", lambda _: sys.exit(3), "raised SystemExit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_round_can_use_is_named_before_the_run_and_in_it(case: str) -> None:
    slot, value, says = WRONG[case]
    wrong = replace(ERK, **{slot: value})
    with pytest.raises(SettingsError, match=f"slot {slot} .*{says}"):
        check_algorithm(wrong)
    given: dict[str, tuple[Any, ...]] = {
        "aggregate": (BASE, UPDATES),
        "plan": (LAYERS, DENSITIES, None, 1),
        "revise": (FAMILY, BASE, {}, {"pi-1": BASE.mask}),
        "start": (FAMILY, STATE, None),
        "init_state": (BASE,),
        "local": (None,),
    }
    with pytest.raises(AlgorithmError, match=f"slot {slot} of .*{says}"):
        getattr(named_slots(wrong), slot)(*given[slot])


def not_nested(*given: Any) -> MaskFamily:
    family = ERK.plan(*given)
    return replace(family, masks=dict(reversed(family.masks.items())), seed=None)


def test_masks_that_are_not_nested_in_the_first_are_named() -> None:
    slots = named_slots(replace(ERK, plan=not_nested))
    with pytest.raises(AlgorithmError, match="the largest, does not keep"):
        slots.plan(LAYERS, DENSITIES, None, 1)


def test_a_state_that_loses_an_entry_or_a_weight_is_named() -> None:
    base = replace(BASE, state=EACH)
    for state, says in (
        ({"v": {}}, "for other entries than before: a.weight"),
        ({"v": {n: a[1:] for n, a in EACH["v"].items()}}, "of shape"),
        (None, "whose state is None"),
    ):
        own = aggregate(lambda m, state=state: replace(m, state=state))
        with pytest.raises(AlgorithmError, match=says):
            named_slots(replace(ERK, aggregate=own)).aggregate(base, UPDATES)


def test_a_plan_that_needs_a_warm_up_says_so_at_once() -> None:
    no_evidence = Algorithm(name="mine", plan=coordinator.flash().plan)
    with pytest.raises(SettingsError, match=r"slot plan needs .* evidence is None"):
        check_algorithm(no_evidence)


def test_updates_may_be_read_twice() -> None:
    def twice(base: Model, updates: Any) -> Any:
        assert len(list(updates)) == len(UPDATES)
        return coverage_mean(base, updates)

    found, _ = named_slots(replace(ERK, aggregate=twice)).aggregate(BASE, UPDATES)
    once, _ = coverage_mean(BASE, UPDATES)
    assert all(np.array_equal(found.masked[n], once.masked[n]) for n in once.masked)


class Broken:
    """Updates on a disk that refuses after the first."""

    def __iter__(self) -> Iterator[Contribution]:
        yield UPDATES[0]
        raise StateError("the disk refuses")


def test_an_error_of_the_reading_stays_what_it_is_even_if_a_slot_hides_it() -> None:
    def hides(base: Model, updates: Any) -> Any:
        try:
            return coverage_mean(base, updates)
        except Exception:  # noqa: BLE001 - as a user may write
            return coverage_mean(base, UPDATES)

    for own in (coverage_mean, hides):
        with pytest.raises(StateError, match="the disk refuses"):
            named_slots(replace(ERK, aggregate=own)).aggregate(BASE, Broken())


@pytest.mark.parametrize(
    "error", [SystemExit(3), StateError("x"), StopIteration(), GeneratorExit()]
)
def test_whatever_a_slot_raises_is_its_own_error(error: BaseException) -> None:
    def raises(_base: Model, _updates: Any) -> Any:
        raise error

    slots = named_slots(replace(ERK, aggregate=raises))
    with pytest.raises(AlgorithmError, match=f"raised {type(error).__name__}"):
        slots.aggregate(BASE, UPDATES)


def test_an_interrupt_and_a_density_below_the_floors_pass_as_they_are() -> None:
    def raises(error: BaseException) -> Any:
        def raising(*_: Any) -> Any:
            raise error

        return raising

    for slot, error in (
        ("aggregate", KeyboardInterrupt()),
        ("plan", DensityError("below the floors")),
    ):
        slots = named_slots(replace(ERK, **{slot: raises(error)}))
        with pytest.raises(type(error)):
            getattr(slots, slot)(*([BASE, UPDATES] if slot == "aggregate" else [1] * 4))


def test_densities_are_the_familys_own_numbers() -> None:
    own = replace(ERK, assign=lambda a, d: {k: np.float64(min(d)) for k in a})
    found = named_slots(own).assign({"pi-1": 1.0}, DENSITIES)
    assert {type(density) for density in found.values()} == {float}
