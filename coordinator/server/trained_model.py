"""`trained_model`: a run's last global model at one density, as a torch module."""

from __future__ import annotations

import torch
from torch import nn

from coordinator.checkpoints.models import ModelStore
from coordinator.server.global_model import RunMemory, load_model
from edge_sdk.errors import DensityError, StateError
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Task
from edge_sdk.training.rules.moving_masks import dense_model

__all__ = ["trained_model"]


def trained_model(
    task: Task, reference: str, memory: RunMemory, seed: int, density: float
) -> nn.Module:
    """The model in evaluation mode; its weights are dense, exactly 0 off the mask.

    Args:
        task: What was trained.
        reference: Its name in checkpoints.
        memory: The run's ledger, or what a simulation has in its place.
        seed: The run's.
        density: One of the run's.

    Raises:
        DensityError: If the run has no such density; says which it has.
        StateError: If no masks are drawn yet, or a file is gone.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        layers = layers_of(task.model(), task.dense_layers)
    store = ModelStore(memory.folder, reference, layers)
    found = load_model(store, memory, layers, seed)
    if found is None:
        raise StateError(
            f"{memory.folder} holds no model yet",
            remedy="Wait until its warm-up is done.",
        )
    model, family = found
    if density not in family.masks:
        known = ", ".join(f"{d:g}" for d in family.masks)
        raise DensityError(
            f"the run has no model of density {density!r}",
            remedy=f"Ask for one of {known}.",
        )
    mask = family.masks[density]
    with torch.random.fork_rng(devices=[]):
        return dense_model(task, mask, model.on(mask)).eval()
