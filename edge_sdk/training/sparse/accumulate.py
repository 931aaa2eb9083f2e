"""Gradient accumulation over micro-batches: the same update within a RAM ceiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.training.sparse.model import SparseModel
from edge_sdk.training.sparse.modules import BlockedNorm

__all__ = ["accumulate"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def accumulate(
    model: SparseModel, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, *,
    micro_batch: int, ghost_norm: bool = False,
) -> float:  # fmt: skip
    """Adds the gradient of the mean loss over a batch, `micro_batch` samples at a time.

    "The same update" means: the gradient of the loss over the whole batch. Parts are
    weighted by their share of the samples, so this holds up to rounding for any split
    of a model whose samples do not see each other: group norm, layer norm, no norm.
    Batch norm in training mode is different: its statistics couple all samples of a
    batch, layer after layer, and no order of micro-batches has the whole batch's
    statistics of layer k before every micro-batch has passed layer k, which is the
    memory that was to be saved. It is therefore refused unless `ghost_norm` accepts
    statistics per micro-batch ("ghost batch norm"). Frozen (evaluation-mode) batch
    norm is exact. Dropout draws other numbers, as for any other split.

    Args:
        model: The sparse model, in training mode.
        loss: (predictions, targets) -> scalar, the mean over the given samples.
        inputs: (N, ...) float32.
        targets: (N, ...).
        micro_batch: Samples per part, at least 1.
        ghost_norm: Accept batch statistics per micro-batch.

    Returns:
        The mean loss over the batch.

    Raises:
        EngineError: If `micro_batch` is below 1, the batch is empty, or batch norm is
            training and `ghost_norm` was not given; names the layer.
    """
    samples = len(inputs)
    if micro_batch < 1 or not samples:
        raise EngineError(f"cannot split {samples} samples into parts of {micro_batch}")
    if micro_batch < samples and not ghost_norm:
        _refuse_batch_norm(model.module)
    total = 0.0
    for start in range(0, samples, micro_batch):
        part = slice(start, start + micro_batch)
        share = len(inputs[part]) / samples
        value = loss(model(inputs[part]), targets[part]) * share
        value.backward()  # type: ignore[no-untyped-call]
        total += float(value.detach())
    return total


def _refuse_batch_norm(module: nn.Module) -> None:
    kinds: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
    for name, layer in module.named_modules():
        blocked = isinstance(layer, BlockedNorm) and not layer.groups
        if (blocked or isinstance(layer, kinds)) and layer.training:
            raise EngineError(
                f"layer {name}: batch norm in training mode sees the whole batch, so "
                "micro-batches cannot give the same update",
                remedy="Use group norm, or accept statistics per micro-batch with "
                "ghost_norm=True.",
            )
