"""Outputs of a torch module: its tensors out of whatever holds them, joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.tasks.trial_step import tensors_of

__all__ = ["AT_ONCE", "Tensors", "joined", "outputs_of"]

AT_ONCE = 64  # inputs of a pass


def outputs_of(model: nn.Module, batch: NDArray[Any]) -> list[torch.Tensor]:
    """The tensors that a module gives, whose forward may change its input in place."""
    with torch.no_grad():
        return tensors_of(model(torch.from_numpy(batch.copy())))


def joined(outputs: Sequence[torch.Tensor]) -> NDArray[Any]:
    """One output as it is; several flat, one after the other: (n, ...)."""
    if len(outputs) == 1:
        found: NDArray[Any] = outputs[0].numpy()
        return found
    flat = [output.reshape(len(output), -1) for output in outputs]
    joint: NDArray[Any] = torch.cat(flat, dim=1).numpy()
    return joint


class Tensors(nn.Module):
    """A model of tensors in order, whatever holds its inputs and outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors of the model's outputs."""
        return tuple(tensors_of(self.model(*inputs)))
