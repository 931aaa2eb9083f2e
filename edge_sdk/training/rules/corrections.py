"""Terms that are added to the gradients of frozen training before each step.

A correction looks at the model once, when it holds the base; then it is called between
the backward pass and the step. Bounding the gradient (`clip`) comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from edge_sdk.training.engine import TrainingModel

__all__ = ["Correction", "proximal"]

# the model at the base -> what changes its gradients before each step
Correction: TypeAlias = Callable[[TrainingModel], Callable[[], None]]


def proximal(mu: float, model: TrainingModel) -> Callable[[], None]:
    """Adds mu * (weight - its base) to every gradient (FedProx, arXiv:1812.06127)."""
    pairs = [(p, p.detach().clone()) for p in model.parameters()]

    def correct() -> None:
        with torch.no_grad():
            for parameter, base in pairs:
                if parameter.grad is not None:  # the step leaves the others, too
                    parameter.grad.add_(parameter - base, alpha=mu)

    return correct
