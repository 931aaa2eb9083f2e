"""The training program on a device with torch, whose task prepares tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from edge_sdk.errors import EngineError
from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.program.file import unpack_program
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.narrow import narrow
from edge_sdk.sparse import Mask
from edge_sdk.tasks.batch import augmented, tensors
from edge_sdk.tasks.layers import in_mode
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import Arrays
from edge_sdk.training.program_session import ProgramSession, program_tally
from edge_sdk.training.torch_engine.randomness import Draws
from edge_sdk.wire.messages import Training

__all__ = [
    "Batch",
    "Loss",
    "ProgramOnTorch",
    "TorchBatches",
    "captured",
    "program_model",
]

log = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchBatches:
    """Batches by a task's own `prepare` and `augment`, which are torch's.

    Args:
        task: Gives preparation and augmentation.
        examples: The device's own.
        seed: Of the augmentation.
    """

    def __init__(self, task: Task, examples: Examples, seed: int) -> None:
        self._task, self._examples = task, examples
        self._noise = torch.Generator().manual_seed(seed)
        self._draws = Draws(seed)

    def __call__(
        self, index: NDArray[np.int64], *, augment: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at these positions, as the model takes them."""
        with self._draws.batch():
            inputs, targets = tensors(self._task, self._examples, index)
            inputs = augmented(self._task, inputs, self._noise if augment else None)
        return inputs.numpy(), targets.numpy()

    def state(self) -> dict[str, NDArray[Any]]:
        """The random states of the augmentation."""
        return {
            "noise": self._noise.get_state().numpy(),
            "random": self._draws.state(),
        }

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave."""
        self._noise.set_state(torch.from_numpy(state["noise"]))
        self._draws.put_back(state["random"])


class ProgramOnTorch(ProgramModel):
    """A `TrainingModel` on a program, fed by a task that prepares tensors."""

    def tally(self, task: Task, examples: Examples, metrics: Sequence[Metric]) -> Tally:
        """Sums of the metrics in evaluation mode; see `TrainingModel.tally`."""
        batches = TorchBatches(task, examples, 0)
        return program_tally(self, batches, len(examples), metrics)

    def session(
        self,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
    ) -> ProgramSession:
        """One task's training; see `TrainingModel.session`."""
        return ProgramSession(
            self,
            TorchBatches(task, examples, plan.seed),
            plan,
            micro_batch=micro_batch,
            ghost_norm=ghost_norm,
        )


def captured(model: nn.Module, loss: Loss, batch: Batch) -> bytes:
    """The program of a model, captured here; this imports torch's compiler (ADR 40).

    Args:
        model: Left alone.
        loss: The task's.
        batch: Examples as a training step gets them, on which the program takes steps
            beside torch.

    Raises:
        EngineError: If there is no program of it; names layer, operation and source.
    """
    from edge_sdk.program.capture import compiled  # noqa: PLC0415 - torch's compiler

    found = compiled(model, loss, *batch)
    if not found.file:
        raise EngineError(found.reason)
    log.info("captured a training program: %s", found.reason)
    return found.file


def program_model(
    model: nn.Module, mask: Mask, file: bytes, inputs: torch.Tensor, *, reason: str
) -> ProgramOnTorch:
    """The model under its mask as a program, at the values it has.

    Args:
        model: Left alone; it may be narrower than the one that the program is of.
        mask: Patterns by weight name.
        file: The program.
        inputs: A few of the model's, on which a narrower program is tried.
        reason: For logs.

    Raises:
        EngineError: If the program is damaged or does not fit.
    """
    program = unpack_program(file)
    state = {n: t.detach().numpy() for n, t in model.state_dict().items()}
    shapes = {n: array.shape for n, array in state.items()}
    narrower = shapes != {p.name: p.shape for p in program.parameters}
    if narrower:
        program = narrow(program, shapes)
    own = ProgramOnTorch(program, mask, threads=torch.get_num_threads(), reason=reason)
    own.load(
        {n: state[n][mask[n]] for n in mask},
        {n: a for n, a in state.items() if n not in mask.layers},
    )
    if narrower:
        _check_narrower(own, model, mask, inputs)
    return own


def _check_narrower(
    own: ProgramOnTorch, model: nn.Module, mask: Mask, inputs: torch.Tensor
) -> None:
    """Refuses a narrower program that computes something else than its model.

    Raises:
        EngineError: If their predictions differ.
    """
    weights = {
        n: model.get_parameter(n).detach() * torch.from_numpy(np.array(mask[n]))
        for n in mask
    }
    with torch.no_grad(), in_mode(model, training=False):
        expected = tree_leaves(functional_call(model, weights, (inputs,)))
    found = tree_leaves(own.predict(inputs.numpy()))
    if len(found) != len(expected) or not all(
        one.shape == two.shape and np.allclose(one, two.numpy(), 1e-3, 1e-4)
        for one, two in zip(found, expected, strict=True)
    ):
        raise EngineError("the program of the whole model is not the narrower one's")
