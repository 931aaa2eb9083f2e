"""SGD with momentum and weight decay, without what torch's own brings along."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["Sgd"]


class Sgd:
    """Computes what `torch.optim.SGD` does on a processor, bit for bit.

    Making one of torch's imports its compiler, `torch._dynamo`: 68 MiB of a board's
    memory, and seconds of its start, that nothing here uses (ADR 40).

    Args:
        parameters: What it may change.
        rate: The learning rate.
        momentum: Share of the past steps that goes on.
        decay: Weight decay, added to the gradient (L2).

    Attributes:
        parameters: The same, in their order.
        buffers: Place of a parameter -> its momentum, of its shape; made at its first
            gradient, none without momentum.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rate: float,
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.buffers: dict[int, torch.Tensor] = {}
        self._rate, self._momentum, self._decay = rate, momentum, decay

    def zero_grad(self) -> None:
        """Forgets the gradients at hand."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Takes one step; a parameter without a gradient stays as it is."""
        for place, parameter in enumerate(self.parameters):
            change = parameter.grad
            if change is None:
                continue
            if self._decay:
                change = change.add(parameter, alpha=self._decay)
            if self._momentum:
                buffer = self.buffers.get(place)
                if buffer is None:
                    buffer = self.buffers[place] = change.clone()
                else:
                    buffer.mul_(self._momentum).add_(change)
                change = buffer
            parameter.add_(change, alpha=-self._rate)
