"""A torch module whose every weight has a gradient, for rules that move the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.freeze import task_model
from edge_sdk.tasks.task import Task
from edge_sdk.training.torch_engine.session import TorchModel
from edge_sdk.wire.values import Values

__all__ = ["DenseModel", "dense_model"]


class DenseModel(TorchModel):
    """A `TrainingModel` under a full mask: the module's own weights, all of them.

    Args:
        module: Trained in place.
        mask: Names the maskable layers; what it keeps is the rule's business.
        thawed: Give weights of these layers that the user has frozen gradients, too.
    """

    engine = "dense"
    reason = "the rule needs every weight's gradient"

    def __init__(self, module: nn.Module, mask: Mask, *, thawed: bool = False) -> None:
        self.module = module
        self.mask = Mask({n: np.ones(mask[n].shape, np.bool_) for n in mask})
        if thawed:
            for weight in self.kept():
                weight.requires_grad_(True)  # noqa: FBT003 - torch's own signature

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a batch."""
        return cast("torch.Tensor", self.module(inputs))

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters; a frozen one has no gradient, so no step moves it."""
        return self.module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that are not frozen, with their names."""
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def kept(self) -> Iterator[nn.Parameter]:
        """The weights of the mask's layers, in their own shapes."""
        return (self.module.get_parameter(name) for name in self.mask)

    def load(
        self,
        values: Mapping[str, NDArray[np.float32]],
        dense: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes over all weights of the mask's layers, flat, and every other entry."""
        whole = {n: a.reshape(self.mask[n].shape) for n, a in values.items()}
        given = {**dense, **whole}
        self.module.load_state_dict(
            {n: torch.from_numpy(np.array(a)) for n, a in given.items()}
        )

    def values(self) -> dict[str, NDArray[np.float32]]:
        """The weights of the mask's layers, flat; copies."""
        kept = zip(self.mask, self.kept(), strict=True)
        return {n: p.detach().numpy().reshape(-1).copy() for n, p in kept}

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other entry; copies."""
        state = self.module.state_dict()
        return {
            n: t.detach().numpy().copy() for n, t in state.items() if n not in self.mask
        }


def dense_model(task: Task, mask: Mask, start: Values) -> nn.Module:
    """The task's model at a mask's values, its weights dense and 0 off the mask."""
    module = task_model(task)
    state: dict[str, NDArray[Any]] = dict(start.dense)
    for name in mask:
        weight = np.zeros(mask[name].shape, np.float32)
        weight[mask[name]] = start.masked[name]
        state[name] = weight
    module.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in state.items()})
    return module
