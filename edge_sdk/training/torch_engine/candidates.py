"""Losses of candidate masks on this device's examples (FedTiny, arXiv:2212.01977)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_sdk.sparse import LayerShape, candidate_counts, top_k
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.wire.rules import CandidateLosses

__all__ = ["candidate_losses"]

Parts = Sequence[NDArray[np.int64]]


def candidate_losses(
    module: nn.Module,
    layers: Sequence[LayerShape],
    task: Task,
    examples: Examples,
    rule: CandidateLosses,
    parts: Parts,
) -> list[float]:
    """The mean loss under each candidate mask.

    Batch norm takes its statistics from the same examples under the same mask, first;
    those of the base belong to the whole model. A model without it keeps what it has.

    Args:
        module: At the base; changed.
        layers: The maskable ones.
        task: Gives preparation and loss.
        examples: The device's own.
        rule: The candidates.
        parts: Positions of the examples that go through at once.
    """
    weights = {s.name: module.get_parameter(s.name) for s in layers}
    before = {n: w.detach().clone() for n, w in weights.items()}
    losses = []
    with torch.no_grad():
        for kept in candidate_counts(
            layers, rule.density, rule.count, rule.spread, rule.seed
        ):
            for name, whole in before.items():
                size = np.abs(whole.numpy())
                mask = top_k(size, kept[name], f"{rule.seed} {name}")
                weights[name].copy_(whole * torch.from_numpy(mask))
            _take_statistics(module, task, examples, parts)
            losses.append(_loss(module, task, examples, parts))
    return losses


def _take_statistics(
    module: nn.Module, task: Task, examples: Examples, parts: Parts
) -> None:
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the passes
        norm.train()
    for index in parts if norms else ():
        if len(index) > 1 or len(parts) == 1:
            module(tensors(task, examples, index)[0])
    module.eval()


def _loss(module: nn.Module, task: Task, examples: Examples, parts: Parts) -> float:
    total = 0.0
    for index in parts:
        inputs, targets = tensors(task, examples, index)
        total += float(task.loss(module(inputs), targets)) * len(index)
    return total / sum(map(len, parts))
