"""The dense-masked engine: any model, kept values scattered into dense weights.

The trainable tensor of a masked layer is its flat vector of kept values; the forward
pass scatters it into a zero weight and autograd gathers the gradient back. Optimizer
and wire therefore have nnz entries, and off-mask weights cannot move, at the speed and
transient memory of the dense model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask
from edge_sdk.torch_modules.weight_norm import with_kept_norms
from edge_sdk.training.torch_engine.placement import Placement
from edge_sdk.training.torch_engine.session import TorchModel

__all__ = ["MaskedModel", "masked_model"]


class MaskedModel(TorchModel):
    """A `TrainingModel` that runs every layer dense; see the module's docstring.

    Args:
        model: Its parameters stay where they are, in the board's memory.
        mask: Frozen.
        reason: For logs.
        placement: The device that computes; None for the processor.
    """

    engine = "masked"

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        reason: str,
        placement: Placement | None = None,
    ) -> None:
        self.mask, self.reason, self.placement = mask, reason, placement
        self.module = model
        with_kept_norms(model)
        own = dict(model.named_parameters())
        self._kept: dict[str, nn.Parameter] = {}
        self._flat: dict[str, torch.Tensor] = {}
        self._shape: dict[str, torch.Size] = {}
        for name in mask:
            if name not in own or tuple(own[name].shape) != mask[name].shape:
                raise EngineError(f"the model has no weight {name} of the mask's shape")
            weight = own[name]
            flat = torch.from_numpy(mask.flat(name))
            there = weight.device if placement is None else placement.device
            self._flat[name], self._shape[name] = flat.to(there), weight.shape
            self._kept[name] = nn.Parameter(
                weight.detach().reshape(-1)[flat.to(weight.device)].clone(),
                requires_grad=weight.requires_grad,
            )
            weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        self._dense = {n: p for n, p in own.items() if n not in self._kept}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a batch, the kept values in place."""
        if self.placement is not None:
            there = self.placement.sent({**self._kept, **self._dense})
            scattered = {n: self._scattered(n, there[n]) for n in self._kept}
            return self.placement.predict(self.module, {**there, **scattered}, inputs)
        weights = {n: self._scattered(n, kept) for n, kept in self._kept.items()}
        return cast("torch.Tensor", functional_call(self.module, weights, (inputs,)))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Kept values, then dense parameters; none that the user has frozen."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with their names."""
        own = (*self._kept.items(), *self._dense.items())
        return ((name, p) for name, p in own if p.requires_grad)

    def kept(self) -> Iterator[nn.Parameter]:
        """Kept values, one flat parameter per masked layer."""
        return iter(self._kept.values())

    def load(
        self,
        values: Mapping[str, NDArray[np.float32]],
        dense: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes over kept values and every dense entry."""
        state = self._entries()
        if set(values) != set(self._kept) or set(dense) != set(state):
            wrong = set(values) ^ set(self._kept) | set(dense) ^ set(state)
            raise EngineError(f"entries differ from the model's: {sorted(wrong)[:4]}")
        for name, array in [*values.items(), *dense.items()]:
            own = self._kept[name] if name in self._kept else state[name]
            if tuple(own.shape) != array.shape:  # copy_ would broadcast in silence
                raise EngineError(
                    f"entry {name} has shape {array.shape}, not {tuple(own.shape)}"
                )
        with torch.no_grad():
            for name, kept in self._kept.items():
                kept.copy_(torch.from_numpy(np.array(values[name])))
            for name, tensor in state.items():
                tensor.copy_(torch.from_numpy(np.array(dense[name])))

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Kept values per masked layer, copied."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self._kept.items()}

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other entry, copied."""
        return {n: t.detach().cpu().numpy().copy() for n, t in self._entries().items()}

    def _entries(self) -> dict[str, torch.Tensor]:
        state = self.module.state_dict()
        return {n: t for n, t in state.items() if n not in self._kept}

    def _scattered(self, name: str, kept: torch.Tensor) -> torch.Tensor:
        full = kept.new_zeros(self._shape[name].numel())
        return full.index_copy(0, self._flat[name], kept).view(self._shape[name])


def masked_model(
    model: nn.Module,
    mask: Mask,
    *,
    reason: str = "engine = masked",
    placement: Placement | None = None,
) -> MaskedModel:
    """The model under the mask on the dense-masked engine.

    Args:
        model: Trained in place.
        mask: Frozen.
        reason: For logs.
        placement: The device that computes; None for the processor.

    Raises:
        EngineError: If the mask names a weight that the model does not have.
    """
    return MaskedModel(model, mask, reason, placement)
