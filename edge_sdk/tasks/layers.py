"""Layers of a model: those a mask may act on, their first weights, their mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.sparse.mask import LayerShape
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.user_errors import blamed

__all__ = ["in_mode", "initial_state", "layers_of", "make_model"]

_MASKABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layers_of(
    model: nn.Module, dense_layers: frozenset[str] = frozenset()
) -> tuple[LayerShape, ...]:
    """The maskable weights: all of Conv1d/2d/3d and Linear but `dense_layers`.

    Args:
        model: Any module; subclasses of the four kinds count.
        dense_layers: Weights to leave out, by their ``state_dict`` names.

    Returns:
        Name, shape and groups of each, in the order of the model's modules, which is
        the order of values on the wire.

    Raises:
        TaskError: If nothing is left to mask, a name in `dense_layers` is no such
            weight, a weight is shared by two modules, or a shape is not yet known.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [s.name for s in layers_of(net, frozenset({"2.weight"}))]
        ['0.weight']
    """
    owners: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(name)
    found = [
        (f"{name}.weight" if name else "weight", module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _MASKABLE)
    ]
    # A reparametrised layer (weight norm) has no parameter of that name to mask.
    held = {name for names in owners.values() for name in names}
    found = [(name, module) for name, module in found if name in held]
    known = {name for name, _ in found}
    unknown = sorted(dense_layers - known)
    if unknown:
        raise TaskError(
            f"dense_layers names {', '.join(unknown)}, which the model does not have",
            remedy=f"The maskable weights are: {', '.join(n for n, _ in found)}.",
        )
    layers = tuple(
        _layer(name, module, owners[id(module.weight)], known)
        for name, module in found
        if name not in dense_layers
    )
    if not layers:
        raise TaskError(
            f"{type(model).__name__} has no convolution or linear weight to mask",
            remedy="Use nn.Conv or nn.Linear, and leave one out of dense_layers.",
        )
    return layers


def make_model(task: Task, seed: int) -> nn.Module:
    """A fresh model of the task, the same for the same seed; the global one is kept.

    Raises:
        TaskError: If the task's factory raises, or does not return a module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with blamed(task.name, "making the model"):
            model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"task {task.name}: model() returned a {type(model).__name__}, "
            "not a torch.nn.Module"
        )
    return model


def initial_state(task: Task, seed: int) -> dict[str, NDArray[Any]]:
    """The ``state_dict`` of `make_model` as numpy arrays that own their memory.

    Raises:
        TaskError: If the task's factory does not return a module.
    """
    state = make_model(task, seed).state_dict()
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()
    }


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts a model in training or evaluation mode; each layer's own comes back after.

    Args:
        model: Whose layers may differ in their modes.
        training: Whether it trains.
    """
    modes = {layer: layer.training for layer in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def _layer(
    name: str, module: nn.Module, owners: list[str], known: set[str]
) -> LayerShape:
    weight, groups = module.weight, getattr(module, "groups", 1)
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise TaskError(
            f"{name} has no shape before the first batch",
            remedy="Give the layer its input size instead of a lazy module.",
        )
    if len(owners) > 1:
        raise TaskError(
            f"one weight has the names {', '.join(owners)}; a mask acts on one place",
            remedy=f"Untie the weights, or keep this one dense: dense_layers = "
            f"frozenset({{{', '.join(repr(n) for n in owners if n in known)}}}).",
        )
    if not isinstance(weight, nn.Parameter) or not isinstance(groups, int):
        raise TaskError(f"{name} is not a plain parameter")
    return LayerShape(name, tuple(weight.shape), groups)
