"""A torch module whose every weight has a gradient, for rules that move the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.file import unpack_program
from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.freeze import task_model
from edge_sdk.tasks.task import Task
from edge_sdk.training.torch_engine.placement import Placement
from edge_sdk.training.torch_engine.program import ProgramOnTorch
from edge_sdk.training.torch_engine.session import TorchModel
from edge_sdk.wire.values import Values

__all__ = ["SMALL", "DenseModel", "dense_model", "whole_program"]

# Maskable weights up to which a program computes all of them faster than torch: 12
# times on digits, 3 on a 1-D CNN and MNISTNet, 1.3 on ResNet20; .5 on FEMNIST's 6.6 M.
SMALL = 400_000


class DenseModel(TorchModel):
    """A `TrainingModel` under a full mask: the module's own weights, all of them.

    Args:
        module: Trained in place.
        mask: Names the maskable layers; what it keeps is the rule's business.
        thawed: Give weights of these layers that the user has frozen gradients, too.
        placement: The device that computes; None for the processor.
    """

    engine = "dense"
    reason = "the rule needs every weight's gradient"

    def __init__(
        self,
        module: nn.Module,
        mask: Mask,
        *,
        thawed: bool = False,
        placement: Placement | None = None,
    ) -> None:
        self.module, self.placement = module, placement
        self.mask = Mask({n: np.ones(mask[n].shape, np.bool_) for n in mask})
        if thawed:
            for weight in self.kept():
                weight.requires_grad_(True)  # noqa: FBT003 - torch's own signature

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a batch."""
        if self.placement is not None:
            there = self.placement.sent(dict(self.module.named_parameters()))
            return self.placement.predict(self.module, there, inputs)
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


def whole_program(module: nn.Module, mask: Mask, file: bytes) -> ProgramOnTorch:
    """The program under a full mask at a module's values, for a model of few weights.

    Args:
        module: Left alone.
        mask: Names the maskable layers.
        file: The model's program.

    Raises:
        EngineError: If it has too many weights, or the program does not fit.
    """
    if sum(mask[n].size for n in mask) > SMALL:
        raise EngineError("torch's kernels are the faster ones without a mask")
    whole = Mask({n: np.ones(mask[n].shape, np.bool_) for n in mask})
    threads = torch.get_num_threads()
    found = ProgramOnTorch(unpack_program(file), whole, threads=threads)
    state = {n: t.detach().numpy() for n, t in module.state_dict().items()}
    found.load(
        {n: state[n].reshape(-1) for n in mask},
        {n: a for n, a in state.items() if n not in mask.layers},
    )
    return found
