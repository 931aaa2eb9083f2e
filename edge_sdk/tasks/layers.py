"""Layers of a model: those a mask may act on, their first weights, their mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.errors import TaskError, a_type
from edge_sdk.sparse.mask import LayerShape
from edge_sdk.tasks.parts.adapted_model import is_adapter, ranks_in
from edge_sdk.tasks.parts.freeze import task_model
from edge_sdk.tasks.parts.start import start_state
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.torch_modules.maskable import ROWS_OUT, TRANSPOSED, maskable_weights
from edge_sdk.torch_modules.weight_norm import direction_of

__all__ = ["first_kinds", "in_mode", "initial_state", "layers_of", "make_model"]


def layers_of(
    model: nn.Module,
    dense_layers: frozenset[str] = frozenset(),
    *,
    only: Collection[str] | None = None,
) -> tuple[LayerShape, ...]:
    """The maskable weights, but for `dense_layers`.

    They are those of Conv1d/2d/3d, ConvTranspose1d/2d/3d, Linear and Embedding, the
    input and recurrent weights of RNN, LSTM and GRU layers and cells, and the input
    projections of MultiheadAttention. Of a weight-normed convolution or linear layer it
    is the direction.

    Args:
        model: Any module; subclasses of these kinds count.
        dense_layers: Weights to leave out, by their ``state_dict`` names.
        only: The names that a run has masked from its start; None for all there are.

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
        >>> [s.name for s in layers_of(nn.GRU(4, 3))]
        ['weight_ih_l0', 'weight_hh_l0']
    """
    owners: dict[int, list[str]] = defaultdict(list)
    held = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in held.items():
        owners[id(parameter)].append(name)
    # A layer whose weight is computed otherwise has no parameter of that name.
    found = [(n, m) for n, m in maskable_weights(model) if n in held]
    known = {name for name, _ in found}
    unknown = sorted(dense_layers - known)
    if unknown:
        raise TaskError(
            f"dense_layers names {', '.join(unknown)}, which the model does not have",
            remedy=f"The maskable weights are: {', '.join(n for n, _ in found)}.",
        )
    layers = []
    for name, module in found:
        names = owners[id(held[name])]
        if name in dense_layers or (only is not None and name not in only):
            continue
        # A head tied to an embedding is dense where the task names the head alone:
        # embeddings had no name to be dense by in 0.1.0.
        if isinstance(module, ROWS_OUT) or dense_layers.isdisjoint(names):
            layers.append(_layer(name, held[name], module, names, known))
    if not layers:
        raise TaskError(
            f"{type(model).__name__} has no convolution, linear, recurrent or "
            "embedding weight to mask",
            remedy="Use such a layer, and leave one out of dense_layers.",
        )
    return tuple(layers)


def first_kinds(model: nn.Module) -> frozenset[str]:
    """Names of the weights that version 0.1.0 masked: Conv1d/2d/3d and Linear."""
    return frozenset(n for n, m in maskable_weights(model) if isinstance(m, ROWS_OUT))


def make_model(task: Task, seed: int) -> nn.Module:
    """A fresh model of the task, the same for the same seed; the global one is kept.

    Raises:
        TaskError: If the task's factory raises, or does not return a module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with blamed(task.name, "making the model"):
            model = task_model(task)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"task {task.name}: model() returned {a_type(model)}, not a torch.nn.Module"
        )
    return model


def initial_state(task: Task, seed: int) -> dict[str, NDArray[Any]]:
    """The ``state_dict`` of `make_model` as numpy arrays that own their memory.

    Entries that the task's start file has are those of the file.

    Raises:
        TaskError: If the task's factory does not return a module, or its start file
            does not fit.
    """
    state = make_model(task, seed).state_dict()
    found = {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()
    }
    if task.start is None:
        return found
    ranks = ranks_in(task.model)
    new = frozenset(n for n in found if is_adapter(n, ranks))
    return {**found, **start_state(task.start, found, new)}


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
    name: str,
    weight: nn.Parameter,
    module: nn.Module,
    owners: list[str],
    known: set[str],
) -> LayerShape:
    groups = getattr(module, "groups", 1)
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
    if not isinstance(groups, int):
        raise TaskError(f"{name} is not a plain parameter")
    columns_out = isinstance(module, (*TRANSPOSED, nn.Embedding))
    normed = direction_of(module)
    if normed is not None and normed[1] in {0, 1}:  # each norm is one of something
        columns_out = normed[1] == 1
    return LayerShape(name, tuple(weight.shape), groups, columns_out=columns_out)
