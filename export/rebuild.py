"""`Source`: a module with exact zeros, what it is called and what it is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import CheckpointError, DataError, TaskError
from edge_sdk.infer.input_parts import InputPart
from edge_sdk.sparse import Mask
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.example_inputs import inputs_without_data
from edge_sdk.tasks.layers import make_model
from edge_sdk.tasks.metrics import guess
from edge_sdk.tasks.parts.adapted_model import adapted
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.scoring import measure_of
from export.checks.folded import folded, without_norms
from export.checks.made_up import made_up
from export.checks.outputs import AT_ONCE, joined, outputs_of

__all__ = ["Inputs", "Source", "from_checkpoint", "frozen"]

_FEW = 2
_SEED = 2208  # of random parity inputs; fixed, so that two exports are the same bytes


@dataclass(frozen=True, eq=False)
class Inputs:
    """Model inputs to compare outputs on.

    Attributes:
        batch: (n, *input_shape), prepared, of the dtype that the model takes.
        targets: (n, ...) as the loss takes them, or None for random inputs.
        origin: Where they come from, in words, for the report.
        raw: The examples before `Task.prepare`, or None for random inputs.
        read: The whole set that they are from, as the task reads it; None likewise.
    """

    batch: NDArray[Any]
    targets: NDArray[np.generic] | None
    origin: str
    raw: NDArray[np.generic] | None = None
    read: Examples | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, index: NDArray[np.int64]) -> Inputs:
        """The inputs at these positions."""
        return Inputs(
            self.batch[index],
            None if self.targets is None else self.targets[index],
            self.origin,
            None if self.raw is None else self.raw[index],
            self.read,
        )


@dataclass(frozen=True, eq=False)
class Source:
    """The model to export: a module in evaluation mode, its mask, its names.

    Attributes:
        model: The module; weights off the mask are exactly 0.
        mask: The kept weights, by ``state_dict`` names.
        input_shape: Shape of one prepared example, without the batch axis.
        task: Name of the task, or of the model when there is none.
        round_no: Round of the checkpoint; 0 for a module.
        labels: Class names in the order of the outputs; may be empty.
        metrics: What the checkpoint says about the model.
        contract: The task itself; None for a module.
        given: Prepared inputs, perhaps with targets, to calibrate and compare on;
            before those of a folder.
        notes: What was done to the module, in words.
        personal: Entries that each device has for itself.
        privacy: As the checkpoint's; empty for a module.
        parts: The inputs of a module of several; `input_shape` then is a row of all.
    """

    model: nn.Module
    mask: Mask
    input_shape: tuple[int, ...]
    task: str = "model"
    round_no: int = 0
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    contract: Task | None = None
    given: Inputs | None = None
    notes: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    privacy: str = ""
    parts: tuple[InputPart, ...] = ()

    def personal_values(self) -> dict[str, NDArray[Any]]:
        """The personal entries, with the values that training began with."""
        state = self.model.state_dict()
        return {n: state[n].numpy() for n in self.personal}

    def example(self, count: int, data: Path | None = None) -> torch.Tensor:
        """(count, *input_shape) inputs of the dtype and range that the model takes.

        The same with and without data, so that a file's input is one dtype: only where
        nothing that is made up fits, the data's are taken.

        Raises:
            TaskError: If the model takes nothing that is made up, and there is no data.
        """
        own = self.contract
        stated = None if own is None else own.example_inputs
        if self.parts:
            given = None if self.given is None else self.given.batch
            stated = partial(made_up, self.parts, given, _SEED)
        try:
            return inputs_without_data(
                self.task,
                self.model,
                self.input_shape,
                count,
                stated=stated,
                prepare=None if own is None else own.prepare,
                seed=_SEED,
            )
        except TaskError:
            if self.given is not None:
                rows = np.resize(np.arange(len(self.given)), count)
                return torch.from_numpy(self.given.batch[rows])
            if data is None or own is None:
                raise
            return tensors(own, own.read_eval(data), slice(0, count))[0]

    def shared(self) -> dict[str, str]:
        """Each weight's name to the first name of its parameter.

        A module that is used twice, or two with one weight, give a parameter several
        names in the ``state_dict``; a graph knows it by one.
        """
        first: dict[int, str] = {}
        state = self.model.state_dict(keep_vars=True)
        ordered = sorted(state, key=lambda name: name not in self.mask.layers)
        return {name: first.setdefault(id(state[name]), name) for name in ordered}

    def inputs(self, data: Path | None, limit: int, *, half: int = 0) -> Inputs:
        """Up to `limit` inputs: those given, else a folder's, else random ones.

        Args:
            data: The folder, or None.
            limit: How many at most.
            half: 0 takes every second example from the first, 1 from the second: what
                a model is calibrated on is not what its accuracy is measured on.

        Raises:
            DataError: If the folder holds no examples of the model's shape.
        """
        if self.given is not None:
            return self.given.take(_spread(len(self.given), limit, half))
        if data is None:
            batch = self.example(min(limit, 32)).numpy()
            return Inputs(batch, None, f"seeded random inputs (seed {_SEED})")
        if self.contract is None:
            raise DataError(
                "a module without a task has no evaluation examples",
                remedy="Give examples with --calibration; from Python calibration=.",
            )
        examples = self.contract.read_eval(data)
        chosen = examples.take(_spread(len(examples), limit, half))
        with torch.no_grad():
            inputs, targets = tensors(self.contract, chosen, slice(None))
        batch = inputs.to(self.example(1, data).dtype).contiguous().numpy()
        origin = f"evaluation examples of {self.task}"
        return Inputs(batch, targets.numpy(), origin, chosen.inputs, examples)

    def meaning(self, data: Path | None) -> dict[str, Any]:
        """Meaning of the outputs, for whoever shows them: kind and threshold.

        From the task's examples, else from its loss and the outputs' shape; a module
        without a task has classes if it has labels.
        """
        if self.contract is None:
            return {"kind": "classes" if self.labels else "values", "threshold": 0.0}
        if data is None:
            with torch.no_grad():
                outputs = self.model(self.example(_FEW))
            found = guess(self.contract.loss, outputs)
        else:
            found = measure_of(self.contract, self.contract.read_eval(data))
        kind = "classes" if found.kind == "one-hot" else found.kind
        return {"kind": kind, "threshold": found.threshold}

    def predict(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """The module's outputs in torch, in small batches: float32 (n, ...).

        Several outputs are one after the other, flat: (n, values).

        Raises:
            DataError: If the model fails on some of them: an index beyond its table.
        """
        parts: list[NDArray[np.float32]] = []
        try:
            for start in range(0, len(batch), AT_ONCE):
                leaves = outputs_of(self.model, batch[start : start + AT_ONCE])
                parts.append(joined([leaf.float() for leaf in leaves]))
        except Exception as error:
            first = len(parts) * AT_ONCE
            last = min(first + AT_ONCE, len(batch)) - 1
            raise DataError(
                f"{self.task} fails on inputs {first} to {last}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}",
                remedy="Give inputs that the model takes: indices, for example, below "
                "the size of its table.",
            ) from error
        return np.concatenate(parts)

    def apart(self, outputs: NDArray[np.float32], batch: NDArray[Any]) -> Any:
        """Joined outputs in the form that the model gives, as tensors, for the loss."""
        with torch.no_grad():
            leaves, form = tree_flatten(self.model(torch.from_numpy(batch[:2].copy())))
        if len(leaves) == 1:
            return tree_unflatten([torch.from_numpy(outputs)], form)
        sizes = [leaf[0].numel() for leaf in leaves]
        pieces = torch.split(torch.from_numpy(outputs), sizes, dim=1)
        shaped = [
            piece.reshape(len(outputs), *leaf.shape[1:])
            for piece, leaf in zip(pieces, leaves, strict=True)
        ]
        return tree_unflatten(shaped, form)


def _spread(count: int, limit: int, half: int) -> NDArray[np.int64]:
    """Positions of up to `limit` of every second example; spread over sorted sets."""
    own = np.arange(half if count > half else 0, count, 2)
    step = max(1, own.size // limit)
    return own[::step][:limit]


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
    model = make_model(replace(task, model=adapted(task.model, checkpoint.adapters)), 0)
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
    whole = Source(
        model=frozen(model),
        mask=without_norms(task.name, model, checkpoint.mask, checkpoint.personal),
        input_shape=tuple(task.input_shape),
        task=task.name,
        round_no=checkpoint.round_no,
        labels=tuple(task.labels),
        metrics=dict(checkpoint.metrics),
        contract=task,
        personal=tuple(n for n in checkpoint.personal if n in state),
        privacy=checkpoint.privacy,
    )
    if not checkpoint.adapters:
        return whole
    inputs = whole.example(_FEW).numpy()
    given = task.name, whole.model, whole.mask, checkpoint.adapters
    mask, note = folded(*given, lambda: whole.predict(inputs))
    return replace(whole, mask=mask, notes=(note,))


def frozen(model: nn.Module) -> nn.Module:
    """The same module on the CPU, in evaluation mode, without gradients."""
    return model.cpu().eval().requires_grad_(requires_grad=False)


def __getattr__(name: str) -> Any:
    """Give `from_module` under the name that it had in 0.1.0."""
    if name == "from_module":
        from export.modules import from_module  # noqa: PLC0415 - it needs this module

        return from_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
