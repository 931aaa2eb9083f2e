"""FedAdam, FedYogi (Reddi et al., arXiv:2003.00295, Algorithm 2): on the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.server_step import Values, with_server_step

__all__ = ["fedadam", "fedyogi"]

# (v before, change^2, share of v that goes on) -> v
SecondMoment: TypeAlias = Callable[[Values, Values, float], Values]


def fedadam(
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    on: Algorithm | None = None,
) -> Algorithm:
    """The model moves by learning_rate * m / (sqrt(v) + tau).

    m = b1 m + (1 - b1) change; v = b2 v + (1 - b2) change^2.
    As published there is no bias correction, and v starts at tau squared.

    Args:
        learning_rate: Of the server.
        beta1: Share of m that goes on.
        beta2: Share of v that goes on.
        tau: Degree of adaptivity: far above sqrt(v) it is FedAvgM.
        on: Whose masks, warm-up and mean; frozen masks without a warm-up if None.
    """
    step = partial(_step, _adam, learning_rate, beta1, beta2, tau)
    return with_server_step("fedadam", on, step, momentum=0.0, variance=tau**2)


def fedyogi(
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    on: Algorithm | None = None,
) -> Algorithm:
    """As `fedadam`, with v = v - (1 - b2) change^2 sign(v - change^2)."""
    step = partial(_step, _yogi, learning_rate, beta1, beta2, tau)
    return with_server_step("fedyogi", on, step, momentum=0.0, variance=tau**2)


def _adam(v: Values, square: Values, beta: float) -> Values:
    return beta * v + (1 - beta) * square


def _yogi(v: Values, square: Values, beta: float) -> Values:
    return v - (1 - beta) * square * np.sign(v - square)


def _step(
    second: SecondMoment,
    rate: float,
    beta1: float,
    beta2: float,
    tau: float,
    change: Values,
    moments: Mapping[str, Values],
) -> tuple[Values, Mapping[str, Values]]:
    m = beta1 * moments["momentum"] + (1 - beta1) * change
    v = second(moments["variance"], change**2, beta2)
    return rate * m / (np.sqrt(v) + tau), {"momentum": m, "variance": v}
