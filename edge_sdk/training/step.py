"""One step of SGD, also on a power of the kept values and with a bounded gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from edge_sdk.training.sgd import Sgd
from edge_sdk.wire.messages import Training

if TYPE_CHECKING:
    from edge_sdk.training.torch_engine.session import TorchModel

__all__ = ["kept_parameters", "sgd", "take_step"]


def sgd(model: TorchModel | nn.Module, plan: Training) -> Sgd:
    """A new optimizer over everything that may change, as FLASH has one each round."""
    return Sgd(
        model.parameters(),
        rate=plan.learning_rate,
        momentum=plan.momentum,
        decay=plan.weight_decay,
    )


def kept_parameters(model: TorchModel, plan: Training) -> list[nn.Parameter]:
    """Parameters that `take_step` treats as a power; none at power 1."""
    return list(model.kept()) if plan.power else []


def take_step(
    optimizer: Sgd, plan: Training, kept: Sequence[nn.Parameter] = ()
) -> None:
    """Takes the step that the gradients at hand ask for.

    With a power b the optimizer moves theta where a kept value is
    w = theta * abs(theta) ** (b - 1) (power-propagation, Schwarz et al.,
    arXiv:2110.00296): theta = sign(w) * abs(w) ** (1 / b) has the gradient
    dL/dw * b * abs(theta) ** (b - 1), so that large weights move more and small ones
    less; one that is 0 stays so. Momentum and weight decay are theta's. Between two
    steps there is only w: engines, checkpoints and the wire know of no theta.

    Args:
        optimizer: Over all parameters.
        plan: Its `power` and `clip`; without them this is `optimizer.step()`.
        kept: (nnz,) each; the parameters that `power` is for.
    """
    power = plan.power or 1.0
    moved = [(w, w.grad) for w in kept if w.grad is not None]  # SGD leaves others, too
    with torch.no_grad():
        for w, gradient in moved:
            theta = w.abs().pow_(1 / power).copysign_(w)
            gradient.mul_(theta.abs().pow_(power - 1).mul_(power))
            w.copy_(theta)
        if plan.clip:
            clip_grad_norm_(optimizer.parameters, plan.clip)
        optimizer.step()
        for w, _ in moved:
            w.mul_(w.abs().pow_(power - 1))
