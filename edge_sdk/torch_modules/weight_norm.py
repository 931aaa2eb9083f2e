"""Weight norm: the direction that a mask acts on, and a direction without a length.

A weight-normed layer holds a direction and a length for each unit; its weight is the
direction over its norm, times the length. A mask thins out the direction, the norm is
that of what is kept, and the weight is zero where the direction is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from edge_sdk.sparse import Mask

__all__ = ["direction_of", "directions_in", "fold_directions", "with_kept_norms"]

_TURNED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WHOLE = -1  # torch's axis of one norm for all values of a weight


def direction_of(module: nn.Module) -> tuple[str, int] | None:
    """Name within a layer of its weight's direction, and the axis that has the norms.

    None where the layer's weight is not weight-normed, or is more than that, or its
    norms are not those of channels. The axis is `WHOLE` where one norm is that of all
    values.

    Example:
        >>> norm = nn.utils.parametrizations.weight_norm
        >>> direction_of(norm(nn.Linear(2, 3)))
        ('parametrizations.weight.original1', 0)
    """
    found = _direction_of(module)
    if found is None or found[1] in {0, WHOLE}:
        return found
    lone = getattr(module, "groups", 1) == 1
    return found if found[1] == 1 and lone and isinstance(module, _TURNED) else None


def _direction_of(module: nn.Module) -> tuple[str, int] | None:
    if parametrize.is_parametrized(module, "weight"):
        steps: Any = module.parametrizations
        steps = steps["weight"]
        if len(steps) == 1 and isinstance(steps[0], _WeightNorm):
            return "parametrizations.weight.original1", steps[0].dim
    for hook in module._forward_pre_hooks.values():  # noqa: SLF001 - torch's own way
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return "weight_v", hook.dim
    return None


def directions_in(model: nn.Module) -> dict[str, str]:
    """Name of each direction in a model, and that of the weight made of it."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        own, head = direction_of(module), f"{path}." if path else ""
        if own is not None:
            found[f"{head}{own[0]}"] = f"{head}weight"
    return found


def with_kept_norms(model: nn.Module) -> None:
    """Makes the weight of a direction that is all zero zero, in place.

    A mask may leave a unit nothing; torch would divide 0 by 0.
    """
    for module in model.modules():
        if type(module) is _WeightNorm:
            module.__class__ = _KeptNorm
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001
            if type(hook) is WeightNorm:
                hook.__class__ = _KeptHook


def fold_directions(model: nn.Module, mask: Mask) -> Mask:
    """The mask of a model whose masked directions are folded into weights, in place.

    Args:
        model: With the values that it keeps; `with_kept_norms`.
        mask: By names of directions and of other weights.
    """
    folded = directions_in(model)
    for direction in folded.keys() & set(mask):
        layer = model.get_submodule(folded[direction].rpartition(".")[0])
        model.get_parameter(direction).requires_grad_(True)  # noqa: FBT003
        if direction.endswith("weight_v"):
            remove_weight_norm(layer)
        else:
            parametrize.remove_parametrizations(layer, "weight")
    return Mask({folded.get(name, name): mask[name] for name in mask})


def _weight(direction: torch.Tensor, length: torch.Tensor, axis: int) -> torch.Tensor:
    if torch.compiler.is_compiling():  # programs do the same by themselves
        return torch._weight_norm(direction, length, axis)  # noqa: SLF001
    gone = torch.norm_except_dim(direction, 2, axis) == 0
    if not gone.any():
        return torch._weight_norm(direction, length, axis)  # noqa: SLF001
    some = torch.where(gone, torch.ones_like(direction), direction)
    none = torch.where(gone, torch.zeros_like(length), length)
    return torch._weight_norm(some, none, axis)  # noqa: SLF001


class _KeptNorm(_WeightNorm):
    """Weight norm whose weight is zero where the direction is."""

    def forward(self, weight_g: torch.Tensor, weight_v: torch.Tensor) -> torch.Tensor:
        """The weight of a length and a direction."""
        return _weight(weight_v, weight_g, self.dim)


class _KeptHook(WeightNorm):
    """The same of the older form, which makes the weight before each call."""

    def compute_weight(self, module: nn.Module) -> torch.Tensor:
        """The weight of a layer's length and direction."""
        direction = getattr(module, f"{self.name}_v")
        return _weight(direction, getattr(module, f"{self.name}_g"), self.dim)
