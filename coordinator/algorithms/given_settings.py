"""A shipped algorithm with settings of one's own: ``feddst(share=0.3)`` as its name."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

from coordinator.algorithms import MAKERS
from coordinator.algorithms.base import Algorithm
from edge_sdk.errors import SettingsError

__all__ = ["with_given_settings"]

_CALL = re.compile(r"([a-z0-9-]+)\((.*)\)", re.DOTALL)


def with_given_settings(
    reference: str, load: Callable[[str], Algorithm]
) -> Algorithm | None:
    """The algorithm of a name with settings behind it; None for any other reference.

    Args:
        reference: ``name(setting=value, ...)``; values are numbers, or names in
            quotes for `on`.
        load: Gives the algorithm that `on` names.

    Raises:
        SettingsError: If the algorithm has no settings, not this one, or refuses a
            value.
    """
    call = _CALL.fullmatch(reference.strip())
    if call is None:
        return None
    name, maker = call[1], MAKERS.get(call[1])
    if maker is None:
        raise SettingsError(
            f"algorithm {reference!r}: {name} has no settings",
            remedy=f"Those that have some: {', '.join(MAKERS)}.",
        )
    given = _values(reference, call[2])
    known = inspect.signature(maker).parameters
    for setting in given:
        if setting not in known:
            raise SettingsError(
                f"algorithm {reference!r}: {name} has no setting {setting}",
                remedy=f"Its settings: {', '.join(known)}.",
            )
    if isinstance(given.get("on"), str):
        given["on"] = load(given["on"])
    try:
        return maker(**given)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"algorithm {reference!r}: {error}") from error


def _values(reference: str, text: str) -> dict[str, Any]:
    why = "each setting needs its name"
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            pairs = [(k.arg, ast.literal_eval(k.value)) for k in call.keywords]
            found = {name: value for name, value in pairs if name is not None}
            if len(found) == len(pairs):
                return found
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = str(error)
    raise SettingsError(
        f"algorithm {reference!r} cannot be read: {why}",
        remedy="Write name(setting=value, ...), for example feddst(share=0.3).",
    )
