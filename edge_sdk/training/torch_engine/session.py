"""`TorchSession`: batches, gradients and steps of one task on torch's own memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_map
from typing_extensions import Self

from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.tasks.batch import augmented, tensors
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.accumulate import accumulate
from edge_sdk.training.engine import Arrays, TrainingModel
from edge_sdk.training.scoring import tally
from edge_sdk.training.step import kept_parameters, sgd, take_step
from edge_sdk.training.torch_engine.randomness import Draws
from edge_sdk.wire.messages import Training

__all__ = ["TorchModel", "TorchSession"]


class TorchModel(TrainingModel, Protocol):
    """A `TrainingModel` that computes by torch; the engines on torch inherit it."""

    module: nn.Module  # the network underneath, for what looks at its layers

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a float32 batch in the model's own layout (N, ...)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything an optimizer may change: kept values and dense parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with the names that `values` and `dense` have."""
        ...

    def kept(self) -> Iterator[nn.Parameter]:
        """The kept values, one parameter of nnz entries per masked layer."""
        ...

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as in torch
        """Switches batch norm and dropout to training or evaluation."""
        self.module.train(mode)
        return self

    def tally(self, task: Task, examples: Examples, metrics: Sequence[Metric]) -> Tally:
        """Sums of the metrics in evaluation mode; see `TrainingModel.tally`."""
        self.train(mode=False)
        return tally(self._here, task, examples, metrics, batch=len(examples))

    def _here(self, inputs: torch.Tensor) -> Any:
        """Outputs in the processor's memory, wherever they were computed."""
        return tree_map(
            lambda out: out.cpu() if isinstance(out, torch.Tensor) else out,
            self(inputs),
        )

    def session(
        self,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
    ) -> TorchSession:
        """One task's training; see `TrainingModel.session`."""
        return TorchSession(
            *(self, task, examples, plan),
            micro_batch=micro_batch,
            ghost_norm=ghost_norm,
        )


class TorchSession:
    """A `TrainingSession` over a torch model.

    torch's arithmetic takes the steps (`edge_sdk.training.step`): a fused multiply-add
    rounds once where numpy rounds twice. The augmentation's generator is torch's.
    """

    def __init__(
        self,
        model: TorchModel,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
        noise: torch.Generator | None = None,
    ) -> None:
        self._model, self._task, self._examples = model, task, examples
        self._plan, self._ghost_norm = plan, ghost_norm
        self._micro_batch = micro_batch
        self._optimizer = sgd(model, plan)
        self._powered = kept_parameters(model, plan)
        self._noise = noise or torch.Generator().manual_seed(plan.seed)
        self._draws = Draws(plan.seed)
        self._named = dict(model.named_parameters())
        model.train()

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Everything the optimizer may change; views."""
        return {n: self._flat(n, p.detach()) for n, p in self._named.items()}

    @cached_property
    def kept(self) -> dict[str, NDArray[np.float32]]:
        """The kept values of every masked layer; views."""
        kept = zip(self._model.mask, self._model.kept(), strict=True)
        return {n: p.detach().numpy().reshape(-1) for n, p in kept}

    @cached_property
    def buffers(self) -> dict[str, NDArray[Any]]:
        """State that a forward pass changes by itself; views."""
        return {n: b.detach().numpy() for n, b in self._model.module.named_buffers()}

    def gradients(self) -> dict[str, NDArray[np.float32]]:
        """The last batch's gradients; views."""
        named = self._named.items()
        return {n: self._flat(n, p.grad) for n, p in named if p.grad is not None}

    def backward(self, index: NDArray[np.int64], *, augment: bool = True) -> float:
        """Replaces the gradients by those of the mean loss over these examples."""
        self._optimizer.zero_grad()
        with self._draws.batch():
            inputs, targets = tensors(self._task, self._examples, index)
            inputs = augmented(self._task, inputs, self._noise if augment else None)
            return accumulate(
                self._model,
                self._task.loss,
                inputs,
                targets,
                micro_batch=self._micro_batch or len(inputs),
                ghost_norm=self._ghost_norm,
            )

    def add(self, terms: Arrays, scale: float = 1.0) -> None:
        """Adds scale * term to the gradients of these names that there are."""
        for name, term in terms.items():
            gradient = self._named[name].grad
            if gradient is not None:  # the step leaves the others, too
                gradient.add_(torch.from_numpy(term).view_as(gradient), alpha=scale)

    def take(self, gradients: Arrays) -> None:
        """Replaces the gradients by these; there are none of other names then."""
        for name, parameter in self._named.items():
            found = gradients.get(name)
            parameter.grad = (
                None
                if found is None
                else torch.from_numpy(np.array(found)).view_as(parameter)
            )

    def beside(self, model: TrainingModel) -> TorchSession:
        """Another torch model's gradients on this session's batches."""
        return TorchSession(
            *(cast("TorchModel", model), self._task, self._examples, self._plan),
            micro_batch=self._micro_batch,
            ghost_norm=self._ghost_norm,
            noise=self._noise,
        )

    def step(self) -> None:
        """Takes the step that the gradients at hand ask for."""
        take_step(self._optimizer, self._plan, self._powered)

    def state(self) -> dict[str, NDArray[Any]]:
        """Momentum and both random states."""
        buffers = self._optimizer.buffers.items()
        return {
            "noise": self._noise.get_state().numpy(),
            "random": self._draws.state(),
            **{f"m/{place}": buffer.detach().numpy() for place, buffer in buffers},
        }

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave in another life of the process."""
        for name, buffer in state.items():
            if name.startswith("m/"):
                place = int(name.removeprefix("m/"))
                self._optimizer.buffers[place] = torch.from_numpy(buffer)
        self._noise.set_state(torch.from_numpy(state["noise"]))
        self._draws.put_back(state["random"])

    def _flat(self, name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
        """A view; flat where it is a masked layer's."""
        found: NDArray[np.float32] = tensor.numpy()
        return found.reshape(-1) if name in self._model.mask.layers else found
