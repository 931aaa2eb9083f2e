"""Arguments of a module's forward: which several inputs are, and how they are given."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import numpy as np
from torch import nn

from edge_sdk.errors import ExportError
from export.modules.loaded_inputs import first_of

__all__ = ["are_several", "called", "given_of", "most_taken", "names_of", "needed"]

_REMEDY = (
    "Give one shape, and one array, for each argument of forward, in order or by name; "
    "of a forward that takes one dictionary or tuple, for each of its values."
)


def given_of(model: nn.Module, calibration: Any) -> Any:
    """A file's `inputs` and `targets`, where the model takes no other of its arrays."""
    if not isinstance(calibration, Mapping) or "inputs" not in calibration:
        return calibration
    more = calibration.keys() - {"inputs", "targets"}
    taken = {p.name for p in _parameters(model) or []}
    if not more or more & taken:
        return calibration
    pair = calibration["inputs"], calibration.get("targets")
    return pair[0] if pair[1] is None else pair


def are_several(model: nn.Module, shape: object, calibration: object) -> bool:
    """Tell from what was given whether the module takes several inputs."""
    if isinstance(shape, Mapping):
        return True
    if isinstance(shape, Sequence) and not isinstance(shape, str | bytes):
        return any(isinstance(one, Sequence | np.ndarray) for one in shape)
    if shape is not None:
        return False
    if (first := first_of(calibration)) is not None:
        calibration = first
    if isinstance(calibration, Mapping):
        return True
    if not isinstance(calibration, tuple):
        return False
    inner = bool(calibration) and isinstance(calibration[0], tuple | Mapping)
    # Two may be inputs and targets, more are several inputs.
    return inner or len(calibration) > 2 or len(needed(model)) > 1


def names_of(model: nn.Module, given: int | Collection[str], name: str) -> list[str]:
    """Names of the arguments that inputs are, in the forward's order.

    Inputs that are no arguments are values of the one that there is: keys of a
    dictionary, or numbered ones of a tuple.

    Args:
        model: The module.
        given: How many inputs there are, the first arguments; or their names.
        name: Of the model, for messages.

    Raises:
        ExportError: If the forward takes others, or needs more.
    """
    parameters = _parameters(model)
    if parameters is None:  # of no Python function
        return [*given] if not isinstance(given, int) else _numbered("input", given)
    ordered = [p.name for p in parameters if p.kind not in _REST]
    kinds = {p.kind for p in parameters}
    if isinstance(given, int):
        found = ordered[:given]
        rest = (
            ""
            if Parameter.VAR_POSITIONAL not in kinds
            else next(p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL)
        )
        if rest:
            found = [p.name for p in parameters if p.kind in _IN_ORDER][:given]
            found += _numbered(rest, given - len(found))
        said, fits = str(given), len(found) == given
    else:
        found = [key for key in ordered if key in given]
        more = [key for key in given if key not in ordered]
        fits = not more or Parameter.VAR_KEYWORD in kinds
        found, said = [*found, *more], ", ".join(map(str, given)) or "none"
    one = _holder(parameters)
    if not fits and one and isinstance(given, int):
        return _numbered(one, given)
    if not fits and one and not isinstance(given, int) and given:
        keys = list(given)
        if not {*keys} & {*ordered}:
            return keys
    lacking = [key for key in needed(model) if key not in found]
    if fits and found and not lacking:
        return found
    by_name = "any names" if Parameter.VAR_KEYWORD in kinds else "nothing"
    takes = ", ".join(needed(model)) or ", ".join(ordered) or by_name
    missing = f"; {', '.join(lacking)} is missing" if lacking else ""
    raise ExportError(
        f"{name}: its forward takes {takes}; inputs given are {said}{missing}",
        remedy=_REMEDY,
    )


def called(model: Any, names: Sequence[str], inputs: Sequence[Any]) -> Any:
    """Call a forward with inputs by the names of its arguments.

    In order as far as they are its first ones, and the rest by name.

    Args:
        model: A module, or a bound forward.
        names: As `names_of` gives them.
        inputs: One for each.
    """
    parameters = _parameters(model) or []
    first = [p.name for p in parameters if p.kind in _IN_ORDER]
    taken = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    if taken or not parameters:
        return model(*inputs)
    if one := _held_by(parameters, names):
        if list(names) == _numbered(one, len(names)):
            wanted = next(str(p.annotation) for p in parameters if p.name == one)
            return model(list(inputs) if _LIST.search(wanted) else tuple(inputs))
        return model(dict(zip(names, inputs, strict=True)))
    count = sum(1 for _ in _equal(names, first))
    rest = dict(zip(names[count:], inputs[count:], strict=True))
    return model(*inputs[:count], **rest)


def most_taken(model: nn.Module) -> int | None:
    """The most inputs that a forward takes; None if any number."""
    parameters = _parameters(model)
    if parameters is None or any(p.kind in _REST for p in parameters):
        return None
    return len(parameters)


def needed(model: nn.Module) -> list[str]:
    """Arguments of a forward that have no default."""
    found = _parameters(model) or []
    return [
        p.name for p in found if p.default is Parameter.empty and p.kind not in _REST
    ]


def _holder(parameters: Sequence[Parameter]) -> str:
    """The one argument that a forward needs, or its first if it needs none."""
    first = [p for p in parameters if p.kind in _IN_ORDER]
    rest = [p for p in parameters if p.default is Parameter.empty and p not in first]
    asked = [p for p in first if p.default is Parameter.empty]
    alone = first and len(asked) <= 1 and all(p.kind in _REST for p in rest)
    return first[0].name if alone else ""


def _held_by(parameters: Sequence[Parameter], names: Sequence[str]) -> str:
    """The argument that holds inputs of these names; "" of arguments themselves."""
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return ""
    own = {p.name for p in parameters}
    return "" if own & {*names} else _holder(parameters)


_LIST = re.compile(r"\b(list|List|MutableSequence)\b")  # in an annotation
_REST = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
_IN_ORDER = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}


def _parameters(model: Any) -> list[Parameter] | None:
    forward = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(signature(forward).parameters.values())
    except (TypeError, ValueError):
        return None


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{number}" for number in range(count)]


def _equal(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that both begin with."""
    found: list[str] = []
    for one, other in zip(names, others, strict=False):
        if one != other:
            break
        found.append(one)
    return found
