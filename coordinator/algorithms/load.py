"""Load an algorithm: a name of the table, ``module:object``, or a value itself."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm, RoundContext
from coordinator.algorithms.evidence import Evidence
from coordinator.algorithms.given_settings import with_given_settings
from coordinator.algorithms.slots.asked import wrong_evidence
from coordinator.algorithms.slots.results import wrong_rule
from coordinator.algorithms.slots.trial import wrong_result
from device_profiles.words import meant
from edge_sdk.errors import SettingsError, a_type
from edge_sdk.tasks.reference import load_object
from edge_sdk.wire.rules import LocalRule

__all__ = ["check_algorithm", "load_algorithm", "name_of"]

# Slot to what it is called with.
SLOTS: Mapping[str, tuple[str, ...]] = {
    "plan": ("layers", "densities", "findings", "seed"),
    "assign": ("affordable", "densities"),
    "local": ("context",),
    "aggregate": ("base", "contributions"),
    "revise": ("family", "model", "coverage", "moved"),
    "start": ("family", "state", "findings"),
}
_REMEDY = "See docs/guides/algorithm.md for what each slot takes and gives."


def load_algorithm(reference: str, *, beside: Path | None = None) -> Algorithm:
    """The algorithm of the table by its name, or another by ``package.module:object``.

    Args:
        reference: The algorithm's name, alone or with settings behind it.
        beside: Folder of the settings file which names it.

    Raises:
        SettingsError: If there is none, it cannot be imported, or a slot is wrong.

    Example:
        >>> load_algorithm("fedavg").name
        'fedavg'
    """
    if reference in ALGORITHMS:
        return ALGORITHMS[reference]
    made = with_given_settings(reference, partial(load_algorithm, beside=beside))
    if made is not None:
        return check_algorithm(made, f"algorithm {reference!r}")
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise SettingsError(
            f"algorithm {reference!r} is none of {', '.join(ALGORITHMS)} and no "
            f"package.module:object{meant(reference, ALGORITHMS)}"
        )
    found: object = load_object(
        reference,
        object,
        what="algorithm",
        wanted="a coordinator.Algorithm",
        error=SettingsError,
        beside=beside,
    )
    return check_algorithm(found, f"algorithm {reference!r}")


def check_algorithm(value: object, what: str = "the algorithm") -> Algorithm:
    """The value itself, if it is an algorithm whose slots can be called.

    The number of each slot's parameters is looked at, and each is called once, on a
    model of one layer, for the type of what it gives.

    Args:
        value: What was given.
        what: How a message names it.

    Raises:
        SettingsError: Names the slot and what it should be.
    """
    if not isinstance(value, Algorithm):
        raise SettingsError(f"{what} is {_kind(value)}", remedy=_REMEDY)
    if not value.name or type(value.name) is not str:
        raise SettingsError(f"{what}: slot name is no text", remedy=_REMEDY)
    what = f"{what} ({value.name})" if value.name not in what else what
    if value.evidence is not None and not isinstance(
        value.evidence, get_args(Evidence)
    ):
        kinds = ", ".join(kind.__name__ for kind in get_args(Evidence))
        raise _wrong(what, "evidence", f"is neither None nor one of {kinds}")
    beyond = wrong_evidence(value.evidence)
    if beyond:
        raise _wrong(what, "evidence", beyond)
    drift: object = value.on_drift
    is_number = isinstance(drift, Real) and not isinstance(drift, bool)
    if not is_number or not 0 <= float(value.on_drift) < math.inf:
        raise _wrong(what, "on_drift", f"is {drift!r}, not a number from 0 on")
    init = value.init_state
    slots = dict(SLOTS) if init is None else {**SLOTS, "init_state": ("model",)}
    if value.redraw is not None:
        slots["redraw"] = ("family", "model", "findings", "context")
    for slot, given in slots.items():
        _check_callable(what, slot, getattr(value, slot), given)
    _try_local(what, value)
    _try_assign(what, value)
    wrong = wrong_result(value)
    if wrong is not None:
        slot, why = wrong
        raise _wrong(what, slot, f"{why} (tried on a model of one layer)")
    return value


def name_of(algorithm: Algorithm) -> str:
    """Name of an algorithm in settings, with what differs from the table's.

    Example:
        >>> from coordinator.algorithms.methods.flash import spdst
        >>> name_of(spdst())
        'flash'
        >>> name_of(spdst(epochs=5))
        'flash with evidence=LayerSensitivity(epochs=5, prune_rate=0.25)'
    """
    known = ALGORITHMS.get(algorithm.name)
    if known is None:
        return algorithm.name
    slots = [field.name for field in fields(Algorithm)]
    told = {s: _described(getattr(algorithm, s)) for s in slots}
    other = [f"{s}={t}" for s, t in told.items() if t != _described(getattr(known, s))]
    return algorithm.name + (f" with {', '.join(other)}" if other else "")


def _described(value: Any) -> str:
    """A slot's value in words that are the same in every process."""
    if isinstance(value, partial):
        given = [*map(_described, value.args)]
        given += [f"{k}={_described(v)}" for k, v in value.keywords.items()]
        return f"{_described(value.func)}({', '.join(given)})"
    if is_dataclass(value) and not isinstance(value, type):
        told = [
            f for f in fields(value) if f.repr or getattr(value, f.name) != f.default
        ]
        own = [f"{f.name}={_described(getattr(value, f.name))}" for f in told]
        return f"{type(value).__name__}({', '.join(own)})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _kind(value: object) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        name = getattr(value, "__name__", "it")
        return f"the {type(value).__name__} {name}, not what it returns: call it"
    missing = [f.name for f in fields(Algorithm) if not hasattr(value, f.name)]
    lacks = (
        f"; it has no {', '.join(missing)}" if 0 < len(missing) <= len(SLOTS) else ""
    )
    return f"{a_type(value)}, not a coordinator.Algorithm{lacks}"


def _wrong(what: str, slot: str, why: str) -> SettingsError:
    return SettingsError(f"{what}: slot {slot} {why}", remedy=_REMEDY)


def _check_callable(what: str, slot: str, value: Any, given: tuple[str, ...]) -> None:
    takes = f"a function of ({', '.join(given)})"
    if not callable(value):
        raise _wrong(what, slot, f"is {value!r}, not {takes}")
    if inspect.iscoroutinefunction(value):
        raise _wrong(what, slot, f"is a coroutine function, not {takes}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # a built-in that does not say what it takes
    try:
        signature.bind(*given)
    except TypeError as error:
        raise _wrong(
            what, slot, f"takes {signature}, and is called as {takes}: {error}"
        ) from error


def _try_local(what: str, algorithm: Algorithm) -> None:
    rule = _tried(what, "local", algorithm.local, RoundContext(1, 1, 1.0))
    kinds = get_args(LocalRule)
    if not isinstance(rule, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise _wrong(what, "local", f"gave {rule!r}, which is none of {names}")
    unsent = wrong_rule(rule)
    if unsent:
        raise _wrong(what, "local", unsent)


def _try_assign(what: str, algorithm: Algorithm) -> None:
    given = {"device-1": 0.5}
    found = _tried(what, "assign", algorithm.assign, given, [0.5, 0.25])
    if not isinstance(found, Mapping) or not isinstance(
        found.get("device-1"), (float, int)
    ):
        raise _wrong(
            what,
            "assign",
            f"gave {found!r} for {given}: it has to give each device a density",
        )


def _tried(what: str, slot: str, call: Any, *given: object) -> Any:
    try:
        return call(*given)
    except (Exception, SystemExit) as error:
        raise _wrong(what, slot, f"raised {type(error).__name__}: {error}") from error
