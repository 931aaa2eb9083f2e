"""FedAvgM (Hsu et al., arXiv:1909.06335): FedAvg with momentum on the server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.server_step import Values, with_server_step

__all__ = ["fedavgm"]


def fedavgm(
    *, learning_rate: float = 1.0, momentum: float = 0.9, on: Algorithm | None = None
) -> Algorithm:
    """V = momentum * v + change; the model moves by learning_rate * v.

    Args:
        learning_rate: Of the server. With momentum .9 a change is taken ten times over
            in the long run: lower this or the devices' rate where FedAvg's is tuned.
        momentum: Share of the past steps that goes on.
        on: Whose masks, warm-up and mean; frozen masks without a warm-up if None.
    """
    step = partial(_momentum, learning_rate, momentum)
    return with_server_step("fedavgm", on, step, momentum=0.0)


def _momentum(
    rate: float, momentum: float, change: Values, moments: Mapping[str, Values]
) -> tuple[Values, Mapping[str, Values]]:
    v = momentum * moments["momentum"] + change
    return rate * v, {"momentum": v}
