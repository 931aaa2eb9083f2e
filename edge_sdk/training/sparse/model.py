"""`SparseModel`: a sparse twin as the training loop's `TrainingModel`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels
from edge_sdk.sparse import Mask
from edge_sdk.training.sparse.convert import sparsify
from edge_sdk.training.torch_engine.session import TorchModel

__all__ = ["SparseModel", "sparse_model"]


class SparseModel(TorchModel):
    """A model whose masked layers compute only the weights they keep.

    Attributes:
        engine: "sparse".
        reason: Why this engine, in words.
        mask: The frozen mask.
        module: The twin itself; its `state_dict` has the model's own keys.
    """

    engine = "sparse"

    def __init__(self, twin: nn.Module, mask: Mask, reason: str) -> None:
        self.module, self.mask, self.reason = twin, mask, reason

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a float32 batch (N, ...) on the CPU.

        Raises:
            EngineError: If the batch is empty, of another dtype or on another device.
        """
        return cast("torch.Tensor", self.module(inputs))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Kept values and dense parameters, in the model's order."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with their names."""
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def kept(self) -> Iterator[nn.Parameter]:
        """Kept values, one parameter of nnz entries per masked layer."""
        return (self.module.get_parameter(name) for name in self.mask)

    def load(
        self,
        values: Mapping[str, NDArray[np.float32]],
        dense: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes over kept values (nnz,) per masked layer and every dense entry.

        Raises:
            EngineError: If an entry is missing, unknown or of another shape; nothing
                is changed then.
        """
        state = self.module.state_dict()
        given = {**dense, **values}
        if set(given) != set(state) or set(values) != set(self.mask):
            wrong = sorted(set(given) ^ set(state) | set(values) ^ set(self.mask))
            raise EngineError(f"entries differ from the model's: {wrong[:4]}")
        for name, array in given.items():
            if tuple(np.shape(array)) != tuple(state[name].shape):
                raise EngineError(
                    f"entry {name} is {np.shape(array)}, not {tuple(state[name].shape)}"
                )
        with torch.no_grad():
            for name, array in given.items():
                state[name].copy_(torch.from_numpy(np.array(array)))

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Kept values per masked layer, (nnz,) in canonical CSR order; copies."""
        state = self.module.state_dict()
        return {name: state[name].numpy().copy() for name in self.mask}

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other ``state_dict`` entry by its name; copies."""
        state = self.module.state_dict()
        return {n: t.numpy().copy() for n, t in state.items() if n not in self.mask}


def sparse_model(
    model: nn.Module, mask: Mask, *, reason: str = "engine = sparse"
) -> SparseModel:
    """The model under the mask on the native sparse engine; the model is left alone.

    Raises:
        EngineError: If a layer cannot be converted or no kernels are available; names
            the layer and the reason.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise EngineError(f"the sparse engine runs on the CPU, not on {device}")
    kernels()  # fails here, with the reason, rather than in the first step
    return SparseModel(sparsify(model, mask), mask, reason)
