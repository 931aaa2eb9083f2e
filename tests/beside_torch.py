"""A program's steps beside torch's, for any model: used by all tests of operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.program.capture import capture
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.optimizers import FlatAdam, FlatSgd, Optimizer, clip_norm
from edge_sdk.sparse import Mask

__all__ = ["Case", "loaded", "mask_of", "relative_error", "three_steps"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OPTIMIZERS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}, {"rate": 0.05}),
    "momentum": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
        {"rate": 0.05, "momentum": 0.9, "decay": 1e-3},
    ),
    "nesterov": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"rate": 0.05, "momentum": 0.9, "nesterov": True},
    ),
    "adam": (
        torch.optim.Adam,
        {"lr": 0.01, "weight_decay": 1e-2, "eps": 1e-3},
        {"rate": 0.01, "decay": 1e-2, "eps": 1e-3},
    ),
    "adamw": (
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 1e-1, "eps": 1e-3},
        {"rate": 0.01, "decay": 1e-1, "eps": 1e-3, "decoupled": True},
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model with a batch and a loss."""

    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Loss = F.cross_entropy


def mask_of(model: nn.Module, density: float, *, seed: int = 0) -> Mask:
    """Random patterns for every weight of two axes at least."""
    rng = np.random.default_rng(seed)
    return Mask(
        {
            n: rng.random(tuple(p.shape)) < density
            for n, p in model.named_parameters()
            if p.dim() > 1
        }
    )


def relative_error(ours: Any, theirs: Any) -> float:
    """Norm of the difference over the norm of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) + 1e-30))


def loaded(case: Case, mask: Mask, **options: Any) -> ProgramModel:
    """The program of a case, through its bytes, at the model's masked weights."""
    program = capture(case.model, case.loss, case.inputs, case.targets)
    assert pack_program(unpack_program(pack_program(program))) == pack_program(program)
    model = ProgramModel(unpack_program(pack_program(program)), mask, **options)
    state = {n: t.numpy().copy() for n, t in case.model.state_dict().items()}
    values = {n: state[n][mask[n]] for n in mask}
    model.load(values, {n: a for n, a in state.items() if n not in mask.layers})
    return model


def three_steps(
    case: Case, mask: Mask, optimizer: str = "sgd", *, clip: float = 0.0, **options: Any
) -> float:
    """Three steps of both on the same batch; the relative error of their updates.

    That of what is trained, or that of the norms' statistics if it is larger: counters
    of batches move by whole numbers, beside which no error would show.
    """
    with torch.no_grad():
        for name in mask:
            weight = case.model.get_parameter(name)
            weight.mul_(torch.from_numpy(np.array(mask[name])))
    ours = loaded(case, mask, **options)
    before = {n: t.numpy().copy() for n, t in case.model.state_dict().items()}
    _torch_steps(case, mask, optimizer, clip)
    _own_steps(ours, case, optimizer, clip)
    after = {n: t.numpy() for n, t in case.model.state_dict().items()}
    found = {**ours.values(), **ours.dense()}
    trained = dict(case.model.named_parameters())
    pairs: dict[bool, list[tuple[Any, Any]]] = {True: [], False: []}
    for name, array in after.items():
        change, start = array - before[name], before[name]
        if name in mask.layers:
            change, start = change[mask[name]], start[mask[name]]
        if array.dtype.kind != "f":
            assert np.array_equal(found[name], array), name
            continue
        pairs[name in trained].append((found[name] - start, change))
    return max(
        relative_error(
            *(np.concatenate([np.ravel(p[k]) for p in each]) for k in (0, 1))
        )
        for each in pairs.values()
        if each and any(change.any() for _, change in each)
    )


def _torch_steps(case: Case, mask: Mask, optimizer: str, clip: float) -> None:
    make, theirs, _ = OPTIMIZERS[optimizer]
    torch_optimizer = make(case.model.parameters(), **theirs)
    case.model.train()
    for _ in range(3):
        torch_optimizer.zero_grad()
        case.loss(case.model(case.inputs), case.targets).backward()  # type: ignore[no-untyped-call]
        for name in mask:
            gradient = case.model.get_parameter(name).grad
            if gradient is not None:  # the loss depends on it
                gradient.mul_(torch.from_numpy(np.array(mask[name])))
        if clip:
            nn.utils.clip_grad_norm_(case.model.parameters(), clip)
        torch_optimizer.step()
    case.model.eval()


def _own_steps(ours: ProgramModel, case: Case, optimizer: str, clip: float) -> None:
    make, _, own = OPTIMIZERS[optimizer]
    library = ours.kernels
    kind: Any = FlatAdam if "adam" in make.__name__.lower() else FlatSgd
    stepper: Optimizer = kind(library, **own)
    for _ in range(3):
        ours.backward(case.inputs.numpy(), case.targets.numpy())
        if clip:
            clip_norm(library, ours.gradient_vector, clip)
        stepper.step(ours.weight_vector, ours.gradient_vector)
