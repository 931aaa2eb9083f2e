"""Optimizers over a program's flat vectors: what torch.optim computes, natively."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.kernels.library import Kernels
from edge_sdk.program.runtime import declared

__all__ = ["FlatAdam", "FlatSgd", "Optimizer", "clip_norm"]

Vector = NDArray[Any]


class Optimizer(Protocol):
    """Moves a vector of weights by its gradient."""

    def step(self, weights: Vector, gradient: Vector) -> None:
        """Takes one step in place."""
        ...

    def state(self) -> dict[str, Vector]:
        """All that the next step depends on beside weights and gradient; views."""
        ...

    def put_back(self, state: dict[str, Vector]) -> None:
        """Takes over what `state` gave."""
        ...


class FlatSgd:
    """SGD with momentum, Nesterov momentum and L2 weight decay, as `torch.optim.SGD`.

    Args:
        kernels: Of the vectors' dtype.
        rate: The learning rate.
        momentum: Share of the past steps that goes on.
        decay: Weight decay, added to the gradient.
        nesterov: Look one step ahead.
    """

    def __init__(
        self,
        kernels: Kernels,
        *,
        rate: float,
        momentum: float = 0.0,
        decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self._library = declared(kernels)
        self.rate, self._momentum, self._decay = rate, momentum, decay
        self._nesterov = nesterov
        self._buffer: Vector | None = None

    def step(self, weights: Vector, gradient: Vector) -> None:
        """Takes one step in place."""
        first = self._buffer is None
        if self._momentum and self._buffer is None:
            self._buffer = np.zeros_like(weights)
        buffer = None if self._buffer is None else self._buffer.ctypes.data
        self._library.fe_sgd(
            *(weights.ctypes.data, gradient.ctypes.data, buffer, weights.size),
            *(self.rate, self._momentum, self._decay, int(self._nesterov), int(first)),
        )

    def state(self) -> dict[str, Vector]:
        """The momentum, once there is one."""
        return {} if self._buffer is None else {"momentum": self._buffer}

    def put_back(self, state: dict[str, Vector]) -> None:
        """Takes over what `state` gave."""
        found = state.get("momentum")
        self._buffer = None if found is None else found.copy()


class FlatAdam:
    """Adam, and AdamW where decay is decoupled, as `torch.optim` has them.

    Args:
        kernels: Of the vectors' dtype.
        rate: The learning rate.
        betas: Shares of the past in the mean of gradients and of their squares.
        eps: Added to the root of the squares.
        decay: Weight decay.
        decoupled: AdamW: the decay shrinks weights and leaves the gradient alone.
    """

    def __init__(
        self,
        kernels: Kernels,
        *,
        rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self._library = declared(kernels)
        self.rate, self._betas, self._eps = rate, betas, eps
        self._decay, self._decoupled = decay, decoupled
        self._steps = 0
        self._mean: Vector | None = None
        self._square: Vector | None = None

    def step(self, weights: Vector, gradient: Vector) -> None:
        """Takes one step in place."""
        if self._mean is None or self._square is None:
            self._mean, self._square = np.zeros_like(weights), np.zeros_like(weights)
        self._steps += 1
        self._library.fe_adam(
            *(weights.ctypes.data, gradient.ctypes.data),
            *(self._mean.ctypes.data, self._square.ctypes.data, weights.size),
            *(self.rate, *self._betas, self._eps, self._decay),
            *(int(self._decoupled), self._steps),
        )

    def state(self) -> dict[str, Vector]:
        """Both means and the number of steps."""
        if self._mean is None or self._square is None:
            return {}
        steps = np.array([self._steps], np.int64)
        return {"mean": self._mean, "square": self._square, "steps": steps}

    def put_back(self, state: dict[str, Vector]) -> None:
        """Takes over what `state` gave."""
        if not state:
            self._steps, self._mean, self._square = 0, None, None
            return
        self._steps = int(state["steps"][0])
        self._mean, self._square = state["mean"].copy(), state["square"].copy()


def clip_norm(kernels: Kernels, gradient: Vector, most: float) -> float:
    """Scales a gradient down to a norm, as torch's `clip_grad_norm_`; returns its own.

    Args:
        kernels: Of the vector's dtype.
        gradient: In place.
        most: Of the norm.
    """
    library = declared(kernels)
    norm = math.sqrt(library.fe_sum_of_squares(gradient.ctypes.data, gradient.size))
    factor = most / (norm + 1e-6)
    if factor < 1:
        library.fe_scale(gradient.ctypes.data, gradient.size, factor)
    return norm
