"""From a checkpoint, or any sparse torch model, to a module with exact zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize, prune

from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import CheckpointError, DataError, ExportError
from edge_sdk.infer.run_key import run_folder
from edge_sdk.models.task import Examples, Task, find_tasks_beside, load_task
from edge_sdk.sparse import Mask

__all__ = ["Inputs", "Source", "from_checkpoint", "from_module"]

_SEED = 2208  # of random parity inputs; fixed, so that two exports are the same bytes


@dataclass(frozen=True, eq=False)
class Inputs:
    """Model inputs to compare outputs on.

    Attributes:
        batch: float32 (n, *input_shape), already prepared.
        targets: (n,) class indices, or None for random inputs.
        origin: Where they come from, in words, for the report.
        raw: The examples before `Task.prepare`, or None for random inputs.
    """

    batch: NDArray[np.float32]
    targets: NDArray[np.generic] | None
    origin: str
    raw: NDArray[np.generic] | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, count: int) -> Inputs:
        """The first `count` inputs."""
        return Inputs(
            self.batch[:count],
            None if self.targets is None else self.targets[:count],
            self.origin,
            None if self.raw is None else self.raw[:count],
        )


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported: a module in evaluation mode, its mask, and what to call it.

    Attributes:
        model: The module; weights off the mask are exactly 0.
        mask: The kept weights, by ``state_dict`` names.
        input_shape: Shape of one prepared example, without the batch axis.
        task: Name of the task, or of the model when there is none.
        round_no: Round of the checkpoint; 0 for a module.
        labels: Class names in the order of the outputs; may be empty.
        metrics: What the checkpoint says about the model.
        prepare: Raw batch -> model input.
        examples: Folder -> evaluation examples; None without a task.
    """

    model: nn.Module
    mask: Mask
    input_shape: tuple[int, ...]
    task: str = "model"
    round_no: int = 0
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None
    examples: Callable[[Path], Examples] | None = None

    def inputs(self, data: Path | None, limit: int, *, half: int = 0) -> Inputs:
        """Up to `limit` inputs: evaluation examples from a folder, else random ones.

        Args:
            data: The folder, or None.
            limit: How many at most.
            half: 0 takes every second example from the first, 1 from the second: what
                a model is calibrated on is not what its accuracy is measured on.

        Raises:
            DataError: If the folder holds no examples of the model's shape.
        """
        if data is None:
            rng = np.random.Generator(np.random.Philox(_SEED))
            batch = rng.standard_normal((min(limit, 32), *self.input_shape), np.float32)
            return Inputs(batch, None, f"seeded random inputs (seed {_SEED})")
        if self.examples is None or self.prepare is None:
            raise DataError("a module without a task has no evaluation examples")
        examples = self.examples(data)
        own = np.arange(half, len(examples), 2)
        step = max(1, own.size // limit)  # spread over sets sorted by class
        chosen = examples.take(own[::step][:limit])
        with torch.no_grad():
            batch = self.prepare(torch.from_numpy(chosen.inputs)).float().numpy()
        if batch.shape[1:] != self.input_shape:
            raise DataError(
                f"prepared examples have shape {batch.shape[1:]}, "
                f"the task says {self.input_shape}"
            )
        origin = f"evaluation examples of {self.task}"
        return Inputs(
            np.ascontiguousarray(batch), chosen.targets, origin, chosen.inputs
        )

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The module's outputs in torch, in small batches: float32 (n, ...)."""
        with torch.no_grad():
            parts = [
                self.model(torch.from_numpy(batch[start : start + 64])).numpy()
                for start in range(0, len(batch), 64)
            ]
        return np.concatenate(parts)


def look_beside(checkpoint: Path) -> None:
    """Lets the task of a checkpoint's file be found where its run's commands find it.

    That is beside the settings of the run's folder, else beside the file itself.
    """
    find_tasks_beside(run_folder(checkpoint) or checkpoint.parent)


def from_checkpoint(checkpoint: Checkpoint, *, task: Task | None = None) -> Source:
    """The checkpoint's model with its values, zeros off the mask, in evaluation mode.

    Args:
        checkpoint: The sparse model.
        task: Its task, if already loaded; else found by the checkpoint's reference.

    Raises:
        CheckpointError: If the checkpoint does not fit the task's model.
        TaskError: If the task cannot be imported.
    """
    task = load_task(checkpoint.task) if task is None else task
    with torch.random.fork_rng(devices=[]):
        model = task.model()
    state = {
        name: torch.from_numpy(np.array(array))
        for name, array in checkpoint.state().items()
    }
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint does not fit the model of task {task.name}: {error}"
        ) from error
    return Source(
        model=_frozen(model),
        mask=checkpoint.mask,
        input_shape=tuple(task.input_shape),
        task=task.name,
        round_no=checkpoint.round_no,
        labels=tuple(task.labels),
        metrics=dict(checkpoint.metrics),
        prepare=task.prepare,
        examples=task.eval_data,
    )


def from_module(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    name: str = "model",
    labels: Sequence[str] = (),
) -> Source:
    """Any torch model with zeros in its weights; the zeros become the mask.

    Masks that ``torch.nn.utils.prune`` still applies, and other parametrizations, are
    made permanent in a copy; the model given stays as it is.

    Raises:
        ExportError: If the model has no convolution or linear weight.
    """
    model = _permanent(model)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    patterns = {
        f"{prefix}.weight" if prefix else "weight": (
            module.weight.detach().cpu().numpy() != 0
        )
        for prefix, module in model.named_modules()
        if isinstance(module, kinds)
    }
    if not patterns:
        raise ExportError(f"{name} has no convolution or linear layer to export")
    return Source(
        _frozen(model), Mask(patterns), tuple(input_shape), name, labels=tuple(labels)
    )


def _permanent(model: nn.Module) -> nn.Module:
    """A copy whose weights are plain parameters: pruned to zero, not times a mask."""
    # Pruning leaves its product as a tensor with a history, which cannot be copied.
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():  # noqa: SLF001 - torch's own way
                if isinstance(hook, prune.BasePruningMethod):
                    setattr(module, hook._tensor_name, hook.apply_mask(module))  # type: ignore[no-untyped-call] # noqa: SLF001
    copy = deepcopy(model)
    for module in copy.modules():
        for name in [n for n, _ in module.named_buffers(recurse=False)]:
            if name.endswith("_mask") and prune.is_pruned(module):
                prune.remove(module, name.removesuffix("_mask"))  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(module):
            for name in list(cast("nn.ModuleDict", module.parametrizations)):
                parametrize.remove_parametrizations(module, name)
    return copy


def _frozen(model: nn.Module) -> nn.Module:
    return model.cpu().eval().requires_grad_(requires_grad=False)
