"""Terms that are added to the gradients of frozen training before each step.

A correction looks at the model once, when it holds the base; then it is called between
the backward pass and the step. Bounding the gradient (`clip`) comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.training.engine import TrainingModel

__all__ = ["Correction", "Variates", "controlled", "next_variates", "proximal"]

Variates: TypeAlias = Mapping[str, NDArray[np.float32]]  # by the parameter's name
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


def controlled(
    ours: Variates, own: Variates, model: TrainingModel
) -> Callable[[], None]:
    """Adds ours - own to every gradient (SCAFFOLD, arXiv:1910.06378, Algorithm 1).

    Args:
        ours: The coordinator's control variates, c.
        own: This device's, c_i, of the same names; 0 where there are none.
        model: At the base.
    """
    pairs = []
    for name, parameter in model.named_parameters():
        if name in ours:
            here = tuple(slice(0, n) for n in parameter.shape)  # of units that it has
            shift = np.ascontiguousarray((ours[name] - own[name])[here])
            pairs.append((parameter, torch.from_numpy(shift)))

    def correct() -> None:
        with torch.no_grad():
            for parameter, shift in pairs:
                if parameter.grad is not None:
                    parameter.grad.add_(shift)

    return correct


def next_variates(
    ours: Variates, own: Variates, moved: Variates, total_rate: float
) -> dict[str, NDArray[np.float32]]:
    """A device's next control variates: option II, c_i - c + (x - y) / (K eta).

    Args:
        ours: The coordinator's, c.
        own: This device's, c_i.
        moved: Its change, y - x.
        total_rate: K eta; see `edge_sdk.training.total_rate`.
    """
    return {
        name: (own[name] - c - moved[name] / np.float32(total_rate)).astype(np.float32)
        for name, c in ours.items()
    }
