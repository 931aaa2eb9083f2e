"""Low-rank adapters in a torch model: added to its layers, and folded into them.

LoRA (Hu et al., arXiv:2106.09685): a layer of weight W computes W x + U D x, where D
has `rank` rows and U as many columns. A convolution's D has its kernel, stride and
padding, U a kernel of 1; with groups, each group has factors of its own. U begins at 0,
so a model with new adapters computes what it did without.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.patterns import fits

__all__ = ["ADAPTER", "add_adapters", "fold_adapters", "ranks_of"]

ADAPTER = "adapter"  # the module of a layer that has its two factors
_SHOWN = 6


class _Adapted(nn.Module):
    """A layer whose adapter's output is added to its own."""

    adapter: Any

    def forward(self, inputs: torch.Tensor) -> Any:
        """The sum of what the layer and its adapter compute."""
        return super().forward(inputs) + self.adapter(inputs)


class _AdaptedLinear(_Adapted, nn.Linear):
    pass


class _AdaptedConv1d(_Adapted, nn.Conv1d):
    pass


class _AdaptedConv2d(_Adapted, nn.Conv2d):
    pass


class _AdaptedConv3d(_Adapted, nn.Conv3d):
    pass


# By exact type: who derives from one may use its weight in another way.
_KINDS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _AdaptedLinear,
    nn.Conv1d: _AdaptedConv1d,
    nn.Conv2d: _AdaptedConv2d,
    nn.Conv3d: _AdaptedConv3d,
}
_PLAIN = {adapted: plain for plain, adapted in _KINDS.items()}


def ranks_of(task: str, adapters: Adapters, model: nn.Module) -> dict[str, int]:
    """Name of each layer that gets an adapter to its rank.

    Args:
        task: The task's name, for messages.
        adapters: What is asked for.
        model: Without adapters.

    Raises:
        TaskError: If a pattern matches no layer that can have one, or an adapter would
            have no fewer weights than its layer.
    """
    can = {p: m for p, m in model.named_modules() if _takes_adapter(m)}
    chosen: dict[str, int] = {}
    for pattern in adapters.on:
        some = [p for p in can if fits(f"{p}.weight" if p else "weight", pattern)]
        if not some:
            shown = ", ".join([*can][:_SHOWN]) + (", ..." if len(can) > _SHOWN else "")
            raise TaskError(
                f"task {task}: adapters.on has {pattern!r}, which matches no layer "
                "that can have an adapter",
                remedy=f"Layers that can: {shown}."
                if can
                else "Only Linear and Conv1d/2d/3d layers can; the model has none.",
            )
        chosen.update(dict.fromkeys(some, adapters.rank))
    for path in chosen:
        _check_rank(task, path, can[path], adapters.rank)
    return {path: adapters.rank for path in can if path in chosen}


def _takes_adapter(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False)).get("weight")
    return type(module) in _KINDS and own is not None  # weight norm has none


def _check_rank(task: str, path: str, layer: Any, rank: int) -> None:
    """Refuses a rank at which the adapter has no fewer weights than the layer."""
    own = layer.weight.numel()
    kernel = math.prod(getattr(layer, "kernel_size", ()))
    inputs = getattr(layer, "in_channels", 0) or layer.in_features
    per_rank = inputs * kernel + layer.weight.shape[0]
    most = (own - 1) // per_rank
    if rank <= most:
        return
    name = path or "the model"
    raise TaskError(
        f"task {task}: adapters.rank {rank} is too large for {name}: its adapter would "
        f"have {rank * per_rank} weights, the layer itself has {own}",
        remedy=(f"Take a rank of at most {most}, or leave" if most else "Leave")
        + f" {name} out of adapters.on; adapters.train trains it whole.",
    )


def add_adapters(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Gives layers of a model adapters that as yet change nothing, in place.

    The first factor's values are drawn from torch's generator.

    Args:
        model: Without adapters on these layers.
        ranks: Name of a layer to its adapter's rank.

    Raises:
        TaskError: If the model has no such layer.
    """
    for path, rank in ranks.items():
        try:
            layer: Any = model.get_submodule(path)
        except AttributeError:
            layer = None
        if layer is None or not _takes_adapter(layer):
            raise TaskError(
                f"the run has an adapter on layer {path}, which this task's model does "
                "not have as a Linear or Conv layer",
                remedy="Use the same version of the task here as on the coordinator.",
            )
        down, up = _factors(layer, rank)
        nn.init.zeros_(up.weight)
        factors = nn.Sequential(OrderedDict(down=down, up=up))
        layer.add_module(ADAPTER, factors.to(layer.weight).train(layer.training))
        layer.__class__ = _KINDS[type(layer)]


def _factors(layer: Any, rank: int) -> tuple[Any, Any]:
    if isinstance(layer, nn.Linear):
        down: Any = nn.Linear(layer.in_features, rank, bias=False)
        return down, nn.Linear(rank, layer.out_features, bias=False)
    kind, groups = type(layer), layer.groups
    down = kind(
        layer.in_channels,
        rank * groups,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        bias=False,
        padding_mode=layer.padding_mode,
    )
    return down, kind(rank * groups, layer.out_channels, 1, groups=groups, bias=False)


def fold_adapters(model: nn.Module) -> tuple[str, ...]:
    """Adds each adapter to its layer's weight, in place; names of these weights.

    The sum is taken in float64; the model is plain afterwards.
    """
    folded = []
    for path, layer in [*model.named_modules()]:
        plain = _PLAIN.get(type(layer))
        if plain is None:
            continue
        own: Any = layer
        weight, factors = own.weight, own.adapter
        groups = getattr(own, "groups", 1)
        up = factors.up.weight.detach().double()
        down = factors.down.weight.detach().double()
        up = up.reshape(groups, weight.shape[0] // groups, -1)
        change = up @ down.reshape(groups, up.shape[2], -1)
        total = weight.detach().double() + change.reshape(weight.shape)
        own.weight = nn.Parameter(total.to(weight.dtype), weight.requires_grad)
        delattr(own, ADAPTER)
        own.__class__ = plain
        folded.append(f"{path}.weight" if path else "weight")
    return tuple(folded)
