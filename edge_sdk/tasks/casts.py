"""Dtypes that a batch may be cast to, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Casts", "default_casts", "float_of", "input_choices", "target_choices"]


@dataclass(frozen=True, slots=True)
class Casts:
    """Dtypes that a prepared batch and its targets are cast to.

    Attributes:
        inputs: As the model takes them.
        targets: As the loss takes them.
    """

    inputs: torch.dtype
    targets: torch.dtype


def input_choices(prepared: torch.dtype, own: torch.dtype) -> tuple[torch.dtype, ...]:
    """Dtypes for prepared inputs, best first: floats become the model's, ids stay.

    Args:
        prepared: What `Task.prepare` gives.
        own: The model's floating dtype.

    Example:
        >>> input_choices(torch.float64, torch.float32)
        (torch.float32, torch.int64)
        >>> input_choices(torch.uint8, torch.float32)
        (torch.uint8, torch.int64, torch.float32)
    """
    if prepared.is_floating_point:
        return own, torch.int64
    if prepared is torch.bool:
        return torch.bool, own, torch.int64
    return tuple(dict.fromkeys((prepared, torch.int64, own)))


def target_choices(targets: torch.dtype, own: torch.dtype) -> tuple[torch.dtype, ...]:
    """The same for targets: class indices are int64 first, everything else a float."""
    if targets.is_floating_point:
        return own, torch.int64
    if targets is torch.bool:
        return own, torch.int64, torch.bool
    return torch.int64, own


def default_casts(prepared: torch.dtype, targets: torch.dtype) -> Casts:
    """The first of each, for examples that no task has read."""
    own = torch.float32
    return Casts(input_choices(prepared, own)[0], target_choices(targets, own)[0])


def float_of(model: nn.Module) -> torch.dtype:
    """The model's floating dtype: that of its first floating weight, else float32."""
    kinds = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return next(kinds, torch.float32)
