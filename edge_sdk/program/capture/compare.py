"""A captured program beside torch: three steps on the same batch must agree.

Judged by what is trained, layer by layer: counters of batches and norm statistics move
by so much that no error of a gradient shows beside them. Where rounding decides, as in
a ReLU whose input is nearly 0, two right computations differ by far more than rounding.
So a layer that differs gets a second look: one step at several points near by, where
other units are at their kink; it must agree at one of them. Models so large that some
unit flips at each point are held to what float64 shows such flips to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture.export import capture
from edge_sdk.program.capture.torch_side.reference import (
    STEPS,
    Batch,
    Change,
    Loss,
    disturbed,
    moved,
    state_of,
    torch_steps,
)
from edge_sdk.program.file import pack_program
from edge_sdk.program.graph import Op, TrainingProgram
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Mask

__all__ = ["Compiled", "compare", "compiled"]

_TOLERANCE = 1e-4  # of the norm of a layer's gradient
# Of the whole gradient's norm: where a layer's own is zero in theory, there is noise.
_FLOOR = 1e-6
_POINTS, _FEW = 6, 4  # points in the second look, and the examples of each
_NEAR = 1e-2  # relative distance of these points: other units are at their kink
_ROUNDING = 2.0**-22  # twice what float32 rounds off
_DRAWS = frozenset(
    ("dropout", "shared_dropout", "uniform", "shared_uniform", "batch_order")
)
_ROUNDED = 5  # runs, of whose effects the median counts
# Examples: another number than what is compared on, and one that no axis of a model
# has by chance. An axis as long as the batch is taken for the batch.
_CAPTURED_ON = 19


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome of compiling a model.

    Attributes:
        file: The program's bytes; empty where there is none.
        reason: Why there is none: the operation, its layer and its source line; else
            how far three steps are from torch's.
    """

    file: bytes
    reason: str


def compiled(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor
) -> Compiled:
    """The program of a model and its loss, if it trains as torch does.

    Args:
        model: Left alone.
        loss: (predictions, targets) -> scalar.
        inputs: Examples as a training step gets them, four at least.
        targets: Theirs.
    """
    few = torch.arange(_CAPTURED_ON) % len(inputs)
    try:
        program = capture(model, loss, inputs[few], targets[few])
        error = compare(program, model, loss, inputs, targets)
    except EngineError as refused:
        return Compiled(b"", str(refused))
    return Compiled(
        pack_program(program), f"{STEPS} steps are {error:.1e} from torch's"
    )


def compare(
    program: TrainingProgram,
    model: nn.Module,
    loss: Loss,
    inputs: torch.Tensor,
    targets: torch.Tensor,
) -> float:
    """Takes three steps of SGD with both; the largest relative error of a layer.

    Without dropout on both sides, and with the middle in place of each random number:
    what is drawn is not torch's.

    Args:
        program: Captured from the model.
        model: Left alone.
        loss: As captured.
        inputs: A batch; more examples than it was captured on.
        targets: Theirs.

    Raises:
        EngineError: If a layer's gradient, or its norm statistics, differ by more than
            1e-4 and by more than rounding can do; names the layer that differs most.
    """
    batch = inputs, targets
    ours = ProgramModel(_without_chance(program), Mask({}))
    theirs = torch_steps(model, loss, batch)
    errors = _errors(_own_steps(ours, model, batch, STEPS, theirs.rate), theirs)
    allowed = _allowed(theirs)
    beyond = {k: e / allowed[k] for k, e in errors.items() if not e <= allowed[k]}
    beyond = _again(ours, model, loss, batch, beyond) if beyond else {}
    if beyond:
        worst = max(beyond, key=lambda k: beyond[k])
        share = errors[worst] / (_norms(theirs)[worst] + 1e-30)
        raise EngineError(
            f"{worst}: {STEPS} steps of the program differ from torch's, by "
            f"{share:.1e} of its {worst.what}",
            remedy="The torch engine trains this model; report the message.",
        )
    norms = _norms(theirs)
    return max((e / norms[k] for k, e in errors.items() if norms[k]), default=0.0)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A module's trained entries or its others, as one vector."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"layer {self.name}" if self.name else "the model"


Norms = dict[_Layer, float]


def _parts(change: Change) -> dict[_Layer, dict[str, np.ndarray]]:
    found: dict[_Layer, dict[str, np.ndarray]] = {}
    for what, arrays in (("gradient", change.gradients), ("state", change.state)):
        for name, array in arrays.items():
            if what == "gradient" or array.dtype.kind == "f":
                layer = _Layer(name.rpartition(".")[0], what)
                found.setdefault(layer, {})[name] = array
    return found


def _norms(change: Change) -> Norms:
    return {
        layer: float(np.linalg.norm([np.linalg.norm(a) for a in arrays.values()]))
        for layer, arrays in _parts(change).items()
    }


def _errors(ours: Change, theirs: Change) -> Norms:
    """Norm of the difference of each layer."""
    return _norms(
        Change(
            {n: ours.gradients[n] - a for n, a in theirs.gradients.items()},
            {n: ours.state[n] - a for n, a in theirs.state.items()},
            theirs.rate,
        )
    )


def _allowed(theirs: Change) -> Norms:
    """Bound on the error of each layer without a further reason."""
    norms = _norms(theirs)
    whole = float(np.linalg.norm([n for k, n in norms.items() if k.what == "gradient"]))
    return {
        layer: _TOLERANCE * norm + (_FLOOR * whole if layer.what == "gradient" else 0.0)
        for layer, norm in norms.items()
    }


def _again(
    ours: ProgramModel, model: nn.Module, loss: Loss, batch: Batch, beyond: Norms
) -> Norms:
    """Layers that one step shows wrong at each of several points, and by how much.

    A ReLU that flips does so at few points; a wrong gradient is wrong at all of them.
    """
    best = dict.fromkeys(beyond, math.inf)
    for seed in range(_POINTS):
        near, few = _point(model, batch, seed)
        exact = _exact(near, loss, few)
        found = _errors(_own_steps(ours, near, few, 1, 0.0), exact)
        allowed = _allowed(exact)
        best = {
            k: min(r, found[k] / (allowed[k] + 1e-30))
            for k, r in best.items()
            if not found[k] <= allowed[k]
        }
        if not best:
            return {}
    near, few = _point(model, batch, _POINTS)
    exact = _exact(near, loss, few)
    allowed = _allowed(exact)
    effects = [
        _errors(_exact(there, loss, moved_few), exact)
        for there, moved_few in (
            disturbed(near, few, _ROUNDING, seed) for seed in range(_ROUNDED)
        )
    ]
    return {
        k: r
        for k, r in best.items()
        if not r <= 1 + np.median([e[k] for e in effects]) / (allowed[k] + 1e-30)
    }


def _point(model: nn.Module, batch: Batch, seed: int) -> tuple[nn.Module, Batch]:
    """The model near by, and a few examples near some of the batch."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(batch[0]), generator=draw)[:_FEW]
    return disturbed(model, (batch[0][chosen], batch[1][chosen]), _NEAR, seed)


def _exact(model: nn.Module, loss: Loss, batch: Batch) -> Change:
    """One step of torch's in float64, or in float32 if the model names that."""
    try:
        return torch_steps(model, loss, batch, steps=1, double=True)
    except (RuntimeError, TypeError):
        return torch_steps(model, loss, batch, steps=1)


def _own_steps(
    ours: ProgramModel, model: nn.Module, batch: Batch, steps: int, rate: float
) -> Change:
    before = state_of(model)
    ours.load({}, before)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    sums = {n: np.zeros(tuple(p.shape)) for n, p in trained.items()}
    inputs, targets = (t.numpy() for t in batch)
    for _ in range(steps):
        ours.backward(inputs, targets)
        for name, gradient in ours.gradients.items():
            sums[name] += gradient
        ours.weight_vector -= np.float32(rate) * ours.gradient_vector
    after = ours.dense()
    rest = {n: moved(after[n], before[n]) for n in after if n not in trained}
    return Change(sums, rest, rate)


def _without_chance(program: TrainingProgram) -> TrainingProgram:
    def kept(operation: Op) -> Op:
        if operation.name in _DRAWS:
            return replace(operation, reals=(0.0,))
        if operation.name == "attention":
            return replace(operation, reals=(operation.reals[0], 0.0))
        return operation

    operations = tuple(map(kept, program.training.operations))
    return replace(program, training=replace(program.training, operations=operations))
