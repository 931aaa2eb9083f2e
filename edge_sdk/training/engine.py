"""Training engine: a model whose only masked parameters are the kept values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.sparse import Mask

__all__ = ["TrainingModel"]


class TrainingModel(Protocol):
    """A model under a frozen mask, ready for a training loop.

    The trainable tensor of a masked layer is the flat vector of its kept values in
    canonical CSR order, so gradients, optimizer state and the wire all have nnz
    entries, and off-mask weights cannot move.
    """

    engine: str  # "masked" or "sparse": for reports
    reason: str  # why this engine, in words
    mask: Mask
    module: nn.Module  # the network underneath, for what looks at its layers

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a float32 batch in the model's own layout (N, ...)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything an optimizer may change: kept values and dense parameters.

        What the user's model has with ``requires_grad = False`` is none of it.
        """
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with the names that `values` and `dense` have."""
        ...

    def kept(self) -> Iterator[nn.Parameter]:
        """Of these the kept values, one parameter of nnz entries per masked layer."""
        ...

    def train(self, mode: bool = True) -> object:  # noqa: FBT001, FBT002 - as in torch
        """Switches batch norm and dropout to training or evaluation."""
        ...

    def load(
        self,
        values: Mapping[str, NDArray[np.float32]],
        dense: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes over kept values (nnz,) per masked layer and every dense entry."""
        ...

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Kept values per masked layer, (nnz,) in canonical CSR order; copies."""
        ...

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other ``state_dict`` entry by its name; copies."""
        ...
