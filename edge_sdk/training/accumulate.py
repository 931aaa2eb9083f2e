"""Gradient accumulation over micro-batches: the same update within a RAM ceiling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_sdk.errors import EngineError
from edge_sdk.program.runtime import lone_example

if TYPE_CHECKING:
    from edge_sdk.training.torch_engine.session import TorchModel

__all__ = ["accumulate", "coupling_layer"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def accumulate(
    model: TorchModel | nn.Module, loss: Loss, inputs: torch.Tensor,
    targets: torch.Tensor, *, micro_batch: int, ghost_norm: bool = False,
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
        model: On any engine, in training mode.
        loss: (predictions, targets) -> scalar, the mean over the given samples.
        inputs: (N, ...) float32.
        targets: (N, ...).
        micro_batch: Most samples per part, at least 1; parts are as equal as they can
            be, so that no lone sample meets batch norm.
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
    parts = -(-samples // micro_batch)
    if parts > 1 and not ghost_norm:
        _refuse_coupling(model if isinstance(model, nn.Module) else model.module)
    total = 0.0
    ends = [samples * part // parts for part in range(parts + 1)]
    for start, end in itertools.pairwise(ends):
        share = (end - start) / samples
        try:
            out = model(inputs[start:end])
        except ValueError as error:
            raise _alone(model, error) if end - start == 1 else error from error
        value = loss(out, targets[start:end]) * share
        value.backward()  # type: ignore[no-untyped-call]
        total += float(value.detach())
    return total


def _alone(model: TorchModel | nn.Module, error: ValueError) -> Exception:
    """The error to raise when a model did not take a batch of one example."""
    layer = coupling_layer(model if isinstance(model, nn.Module) else model.module)
    return error if layer is None else lone_example(f"layer {layer}")


def coupling_layer(module: nn.Module) -> str | None:
    """The first layer whose output for a sample depends on the batch's others."""
    name: str
    for name, layer in module.named_modules():
        alone = not layer.training and getattr(layer, "running_mean", None) is not None
        if isinstance(layer, _BatchNorm) and not alone:
            return name
    return None


def _refuse_coupling(module: nn.Module) -> None:
    name = coupling_layer(module)
    if name is not None:
        raise EngineError(
            f"layer {name}: batch norm in training mode sees the whole batch, so "
            "micro-batches cannot give the same update",
            remedy="Use group norm, allow more memory, or accept statistics per "
            "micro-batch with ghost_norm = true.",
        )
