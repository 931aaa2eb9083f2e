"""torch's side of a comparison: steps of a model, as they are or in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.program.capture.torch_side.chance import Middles, NoDropout
from edge_sdk.program.capture.torch_side.watch import watched
from edge_sdk.torch_modules.copying import copy_model

__all__ = [
    "STEPS",
    "Batch",
    "Change",
    "Loss",
    "disturbed",
    "moved",
    "state_of",
    "torch_steps",
]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]
Array = NDArray[Any]
STEPS = 3
_RATE = 0.01
_FURTHEST = 0.01  # of the weights' norm, that the first step may go


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Gradients and changes of state that steps of SGD have given.

    Attributes:
        gradients: Name -> sum of the steps' gradients, float64, for what is trained.
        state: Name -> value after the last step minus the first one, for all else.
        rate: Of the steps.
    """

    gradients: dict[str, Array]
    state: dict[str, Array]
    rate: float


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy in training mode whose layers drop nothing out."""
    found = copy_model(model).train()
    for module in found.modules():
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001
            module.p = 0.0
    return found


def state_of(model: nn.Module) -> dict[str, Array]:
    """Copies of all entries by name."""
    return {n: t.detach().numpy().copy() for n, t in model.state_dict().items()}


def torch_steps(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    steps: int = STEPS,
    double: bool = False,
) -> Change:
    """Steps of SGD of a model on one batch.

    Args:
        model: Left alone.
        loss: (predictions, targets) -> scalar.
        batch: Inputs and targets.
        steps: How many, at a rate that moves the weights by a hundredth at most.
        double: Whether to compute in float64.

    Raises:
        EngineError: If the model or its loss does what no program repeats (`watched`).
        RuntimeError: If the model does not compute in float64; TypeError likewise.
    """
    own, (inputs, targets) = _plain_copy(model), batch
    if double:
        own = own.double()
        inputs, targets = (
            t.double() if t.is_floating_point() else t for t in (inputs, targets)
        )
    before = state_of(own)
    trained = {n: p for n, p in own.named_parameters() if p.requires_grad}
    sums = {n: np.zeros(tuple(p.shape)) for n, p in trained.items()}
    rate = 0.0
    for _ in range(steps):
        own.zero_grad()
        with watched(own, loss), NoDropout(), Middles():  # type: ignore[no-untyped-call]
            result = loss(own(inputs), targets)
        result.backward()  # type: ignore[no-untyped-call]
        rate = rate or _rate(trained)
        with torch.no_grad():
            for name, parameter in trained.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.numpy()
                    parameter.sub_(rate * parameter.grad)
    after = state_of(own)
    rest = {n: moved(after[n], before[n]) for n in after if n not in trained}
    return Change(sums, rest, rate)


def disturbed(
    model: nn.Module, batch: Batch, noise: float, seed: int
) -> tuple[nn.Module, Batch]:
    """The model at other weights on other inputs, near by; both are copies.

    Args:
        model: Left alone.
        batch: Inputs and targets.
        noise: Relative size of the random changes; whole numbers stay.
        seed: Of these.
    """
    draw = torch.Generator().manual_seed(seed)
    own, (inputs, targets) = copy_model(model), batch

    def moved_by(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        factor = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
        return (tensor.double() * (1 + noise * factor)).to(tensor.dtype)

    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(moved_by(parameter))
        return own, (moved_by(inputs), targets)


def moved(after: Array, before: Array) -> Array:
    """The difference; infinities of a mask are none to themselves."""
    same = after == before
    return np.where(same, 0, after) - np.where(same, 0, before).astype(np.float64)


def _rate(trained: dict[str, nn.Parameter]) -> float:
    weight = math.sqrt(sum(float(p.detach().square().sum()) for p in trained.values()))
    gradient = sum(
        float(p.grad.square().sum()) for p in trained.values() if p.grad is not None
    )
    furthest = _FURTHEST * weight / (math.sqrt(gradient) + 1e-30)
    return min(_RATE, furthest)
