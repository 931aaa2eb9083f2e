"""An algorithm's slots on a model of one layer: whether a round could use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Contribution, Model
from edge_sdk.sparse import LayerShape
from edge_sdk.wire.values import Values

__all__ = ["wrong_result"]

LAYER = LayerShape("weight", (8, 8))
DENSITY = 0.5
SEED = 1


def wrong_result(algorithm: Algorithm) -> tuple[str, str] | None:
    """A slot that gives the wrong thing, and what; None if none was found.

    A slot that raises is passed over, with those that need what it gives: it may know
    layers by their names, and this model has another.

    Args:
        algorithm: Its slots can be called.
    """
    kept = {LAYER.name: DENSITY * LAYER.numel}
    scores = {LAYER.name: np.arange(1.0, LAYER.numel + 1).reshape(LAYER.shape)}
    findings = WarmUpResult(kept=kept, saliency=scores) if algorithm.evidence else None
    state = {LAYER.name: np.ones(LAYER.shape, np.float32)}

    family = _given(algorithm.plan, (LAYER,), [DENSITY], findings, SEED)
    if family is None:
        return None
    if not isinstance(family, MaskFamily):
        return "plan", f"gave {_kind(family)}, not a MaskFamily"
    model = _given(algorithm.start, family, state, findings)
    if model is None:
        return None
    if not isinstance(model, Model):
        return "start", f"gave {_kind(model)}, not a Model"
    first = algorithm.init_state
    memory = {} if first is None else _given(first, model)
    if memory is not None and not _is_state(memory):
        return "init_state", f"gave {_kind(memory)}, not quantity -> entry -> array"
    return _wrong_round(algorithm, family, replace(model, state=memory or {}))


def _wrong_round(
    algorithm: Algorithm, family: MaskFamily, model: Model
) -> tuple[str, str] | None:
    change = Values(model.mask.digest, model.masked, model.dense)
    sent = [Contribution("device-1", model.mask, 1.0, change)]
    after = _given(algorithm.aggregate, model, iter(sent))
    if after is None:
        return None
    if not (
        isinstance(after, tuple)
        and len(after) == 2
        and isinstance(after[0], Model)
        and isinstance(after[1], Mapping)
    ):
        return "aggregate", f"gave {_kind(after)}, not a pair (Model, coverage)"
    had, has = sorted(model.state), sorted(after[0].state)
    if had != has:
        return "aggregate", f"gave a model with the state {has}, its base has {had}"
    moved = {"device-1": model.mask}
    masks = _given(algorithm.revise, family, after[0], after[1], moved)
    if masks is not None and not isinstance(masks, MaskFamily):
        return "revise", f"gave {_kind(masks)}, not a MaskFamily"
    return None


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(entries, Mapping)
        and all(isinstance(array, np.ndarray) for array in entries.values())
        for entries in value.values()
    )


class _Nothing:
    """Stand-in for the result of a slot that returned None."""


def _given(slot: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a slot's trial call; None where it raises."""
    try:
        found = slot(*arguments)
    except Exception:  # noqa: BLE001 - it may be right on the run's own model
        return None
    return _Nothing() if found is None else found


def _kind(value: object) -> str:
    if isinstance(value, _Nothing):
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
