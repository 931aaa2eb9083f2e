"""Terms that are added to the gradients of frozen training before each step.

A correction looks at the session once, when the model holds the base; what it returns
is called between the backward pass and the step. Bounding the gradient (`clip`) comes
after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.training.engine import TrainingSession

__all__ = ["Variates", "controlled", "next_variates", "proximal"]

Variates: TypeAlias = Mapping[str, NDArray[np.float32]]  # by the parameter's name


def proximal(mu: float, session: TrainingSession) -> Callable[[], None]:
    """Adds mu * (weight - its base) to every gradient (FedProx, arXiv:1812.06127)."""
    bases = {name: weight.copy() for name, weight in session.weights.items()}

    def correct() -> None:
        for name, base in bases.items():
            session.add({name: session.weights[name] - base}, mu)

    return correct


def controlled(
    ours: Variates, own: Variates, session: TrainingSession
) -> Callable[[], None]:
    """Adds ours - own to every gradient (SCAFFOLD, arXiv:1910.06378, Algorithm 1).

    Args:
        ours: The coordinator's control variates, c.
        own: This device's, c_i, of the same names; 0 where there are none.
        session: At the base.
    """
    shifts = {}
    for name, weight in session.weights.items():
        if name in ours:
            here = tuple(slice(0, n) for n in weight.shape)  # of units that it has
            shifts[name] = np.ascontiguousarray((ours[name] - own[name])[here])
    return lambda: session.add(shifts)


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
