"""An algorithm's slots on a model of one layer: whether a round could use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from coordinator.algorithms.base import Algorithm, RoundContext
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Contribution, Model
from coordinator.algorithms.slots.named import wrong_result as wrong_of
from edge_sdk.sparse import LayerShape, Mask
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
    values, bias = (
        np.ones(LAYER.numel, np.float32),
        np.zeros(LAYER.shape[0], np.float32),
    )
    whole = Model(Mask.full([LAYER]), {LAYER.name: values}, {"bias": bias})
    warm_up = WarmUpResult(kept, whole, scores, losses=[1.0])
    findings = warm_up if algorithm.evidence else None
    state = {
        LAYER.name: np.ones(LAYER.shape, np.float32),
        "bias": bias,
    }

    try:
        try:
            family = _given("plan", algorithm.plan, (LAYER,), [DENSITY], findings, SEED)
        except _WrongError:
            raise
        except Exception:
            if findings is None:  # then it is what it was not given
                _given("plan", algorithm.plan, (LAYER,), [DENSITY], warm_up, SEED)
                return "plan", "needs what a warm-up finds, and slot evidence is None"
            raise
        model = _given("start", algorithm.start, family, state, findings)
        if algorithm.init_state is not None:
            memory = _given("init_state", algorithm.init_state, model)
            model = replace(model, state=memory)
        change = Values(model.mask.digest, model.masked, model.dense)
        sent = [Contribution("device-1", model.mask, 1.0, change)]
        after, coverage = _given("aggregate", algorithm.aggregate, model, sent)
        moved = {"device-1": model.mask}
        _given("revise", algorithm.revise, family, after, coverage, moved)
        if algorithm.redraw is not None:
            found = WarmUpResult(gradient=scores, uses={LAYER.name: 1.0})
            context = RoundContext(1, 1, DENSITY)
            _given("redraw", algorithm.redraw, family, after, found, context)
    except _WrongError as wrong:
        return wrong.slot, wrong.why
    except Exception:  # noqa: BLE001 - it may be right on the run's own model
        return None
    return None


class _WrongError(Exception):
    """A slot gave the wrong thing."""

    def __init__(self, slot: str, why: str) -> None:
        super().__init__(slot, why)
        self.slot, self.why = slot, why


def _given(slot: str, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        found = call(*arguments)
    except SystemExit as error:
        raise _WrongError(slot, f"raised SystemExit: {error}") from error
    except TypeError as error:
        trace = error.__traceback__
        if trace is None or trace.tb_next is not None:
            raise
        # No Python code ran: a builtin or a class refused what a slot is given.
        raise _WrongError(slot, f"cannot be called as a slot is: {error}") from error
    why = wrong_of(slot, found, arguments)
    if why:
        raise _WrongError(slot, why)
    return found
