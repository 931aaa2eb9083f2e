"""The training program on a device with torch, whose task prepares tensors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from edge_sdk.errors import EngineError
from edge_sdk.program.file import unpack_program
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.narrow import narrow
from edge_sdk.sparse import Mask
from edge_sdk.tasks.batch import augmented, tensors
from edge_sdk.tasks.layers import in_mode
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import Arrays
from edge_sdk.training.program_session import ProgramSession
from edge_sdk.training.sparse.policy import StepRace
from edge_sdk.training.torch_engine.session import TorchModel
from edge_sdk.wire.messages import Training

__all__ = ["Batch", "ProgramOnTorch", "TorchBatches", "faster", "program_model"]

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
log = logging.getLogger(__name__)
_STEPS = 3
_MARGIN = 0.95  # a change of engine must gain this much, or noise would decide


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

    def __call__(
        self, index: NDArray[np.int64], *, augment: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets at these positions, as the model takes them."""
        inputs, targets = tensors(self._task, self._examples, index)
        inputs = augmented(self._task, inputs, self._noise if augment else None)
        return inputs.numpy(), targets.numpy()

    def state(self) -> dict[str, NDArray[Any]]:
        """The random states of the augmentation."""
        return {
            "noise": self._noise.get_state().numpy(),
            "random": torch.get_rng_state().numpy(),
        }

    def put_back(self, state: Arrays) -> None:
        """Takes over what `state` gave."""
        self._noise.set_state(torch.from_numpy(state["noise"]))
        torch.set_rng_state(torch.from_numpy(state["random"]))


class ProgramOnTorch(ProgramModel):
    """A `TrainingModel` on a program, fed by a task that prepares tensors."""

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


def program_model(
    model: nn.Module, mask: Mask, loss: Loss, batch: Batch, *, file: bytes = b""
) -> ProgramOnTorch:
    """The model under its mask as a program, at the values it has.

    Args:
        model: Left alone.
        mask: Patterns by weight name.
        loss: The task's.
        batch: Examples as a training step gets them.
        file: The program, where somebody has compiled it. Without it the model is
            captured here, which imports torch's compiler (ADR 40).

    Raises:
        EngineError: If there is no program of it; names layer, operation and source.
    """
    reason = "a program that the coordinator compiled"
    if not file:
        from edge_sdk.program.capture import compiled  # noqa: PLC0415 - torch's compiler

        found = compiled(model, loss, *batch)
        file, reason = found.file, f"a program that was captured here: {found.reason}"
    if not file:
        raise EngineError(reason.partition(": ")[2])
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
        _check_narrower(own, model, mask, batch[0])
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
        expected = functional_call(model, weights, (inputs,)).numpy()
    found = own.predict(inputs.numpy())
    if found.shape != expected.shape or not np.allclose(found, expected, 1e-3, 1e-4):
        raise EngineError("the program of the whole model is not the narrower one's")


def faster(
    own: ProgramOnTorch, other: TorchModel, loss: Loss, batch: Batch
) -> ProgramOnTorch | TorchModel:
    """The engine whose steps on a batch take less time; its reason has both times."""
    clock = time.perf_counter
    inputs, targets = (t.numpy() for t in batch)
    state = own.values(), own.dense()
    times = []
    for _ in range(_STEPS + 1):
        start = clock()
        own.backward(inputs, targets)
        times.append(clock() - start)
    own.load(*state)  # norm statistics have moved
    own_s, other_s = min(times[1:]), StepRace(*batch, loss, clock).seconds(other)
    figures = (
        f"{own_s * 1e3:.2f} ms a step against {other_s * 1e3:.2f} ms of the "
        f"{other.engine} engine (batch {len(inputs)}, {own.threads} threads)"
    )
    if own_s < _MARGIN * other_s:
        own.reason = f"auto: {own.reason}: {figures}"
        return own
    log.info("the program is not faster here: %s", figures)
    return other
