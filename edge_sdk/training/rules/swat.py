"""SWAT (Raihan and Aamodt, arXiv:2001.01969): sparse passes over dense weights.

Forward, a layer uses its largest weights; backward, the gradient of its input uses the
same weights and the gradient of its weights the largest activations. Every weight gets
a gradient, so which are the largest changes from step to step. The kernels are dense:
its accuracy is had here, not what it would save on hardware made for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.autograd.function import once_differentiable

from edge_sdk.errors import EngineError
from edge_sdk.sparse import LayerShape, Mask, exact_counts, uniform
from edge_sdk.torch_modules.weight_norm import directions_in
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.wire.rules import Swat, TopK

__all__ = ["largest", "swat_model", "with_sparse_passes"]

Tensor = torch.Tensor


def swat_model(
    model: nn.Module,
    mask: Mask,
    kept: Mapping[str, int],
    shares: Mapping[str, float],
) -> MaskedModel:
    """The model, changed in place, with sparse passes through its maskable layers.

    Args:
        model: Fresh.
        mask: What is trained; full where every weight is.
        kept: Weight name to how many of its weights take part.
        shares: Weight name to the share of each example's input elements to its layer
            that takes part backward. By example, so that micro-batches give the same
            update.

    Raises:
        EngineError: If a maskable layer is neither a convolution padded with zeros nor
            linear.
    """
    normed = directions_in(model)
    for name, count in kept.items():
        if name in normed:
            raise EngineError(
                f"{name} has no sparse passes: its layer's weight is weight-normed",
                remedy="Fold weight norm before training "
                "(torch.nn.utils.parametrize.remove_parametrizations), or name "
                "it in the task's dense_layers.",
            )
        layer = model.get_submodule(name.rpartition(".")[0])
        step = _linear if type(layer) is nn.Linear else _conv
        if step is _conv:
            _convolution(layer, name)
        layer.forward = partial(step, layer, count, shares[name])
    return masked_model(model, mask, reason="sparse passes over dense weights (SWAT)")


def with_sparse_passes(
    rule: Swat | TopK, module: nn.Module, mask: Mask, layers: Sequence[LayerShape]
) -> MaskedModel:
    """The model, changed in place, with the rule's passes through its layers.

    Args:
        rule: SWAT takes the largest weights forward, the other one all that there are.
        module: Fresh.
        mask: What is trained.
        layers: The maskable layers.

    Raises:
        EngineError: If a layer has no such passes.
    """
    if isinstance(rule, Swat):
        taking_part = exact_counts(uniform(layers), layers, rule.density)
        shares = dict.fromkeys(taking_part, rule.density)
        return swat_model(module, mask, taking_part, shares)
    sizes = {s.name: s.numel for s in layers}
    shares = {n: kept / sizes[n] for n, kept in mask.counts.items()}
    return swat_model(module, mask, sizes, shares)


def largest(tensor: Tensor, count: int) -> Tensor:
    """Each row's `count` largest magnitudes, 0 elsewhere.

    Args:
        tensor: (rows, ...).
        count: At least 1; all of a row where it is not longer.

    Example:
        >>> largest(torch.tensor([[1.0, -3.0, 2.0]]), 2)
        tensor([[ 0., -3.,  2.]])
    """
    rows = tensor.flatten(1)
    if count >= rows.shape[1]:
        return tensor
    places = rows.abs().topk(count, dim=1, sorted=False).indices
    kept = torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places))
    return kept.view_as(tensor)


@dataclass(frozen=True)
class _Geometry:
    """Arguments of `aten::convolution_backward`; `linear` layers have none of them."""

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


class _SparsePasses(torch.autograd.Function):
    """A convolution, or a linear layer where there is no geometry."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry | None,
        kept: int,
        share: float,
    ) -> Tensor:
        weight = largest(weight[None], kept)[0]
        count = max(1, round(share * x[0].numel()))
        ctx.save_for_backward(largest(x, count), weight)
        ctx.static = geometry, bias is not None
        if geometry is None:
            return F.linear(x, weight, bias)
        g = geometry
        conv: Any = _CONV[len(g.stride)]
        found: Tensor = conv(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g, has_bias = ctx.static
        if g is None:
            flat = dy.flatten(0, -2)
            dw = flat.T @ x.flatten(0, -2)
            return dy @ weight, dw, flat.sum(0) if has_bias else None, *_NOTHING
        wanted = [ctx.needs_input_grad[0], True, has_bias]
        size, none = [len(weight)] if has_bias else None, (0,) * len(g.stride)
        found = torch.ops.aten.convolution_backward(
            dy, x, weight, size, g.stride, g.padding, g.dilation, False, none,  # noqa: FBT003
            g.groups, wanted,
        )  # fmt: skip
        return *found, *_NOTHING


_NOTHING = (None, None, None)
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _linear(layer: Any, kept: int, share: float, x: Tensor) -> Tensor:
    return _passed(x, layer.weight, layer.bias, None, kept, share)


def _conv(layer: Any, kept: int, share: float, x: Tensor) -> Tensor:
    geometry = _convolution(layer, "")
    return _passed(x, layer.weight, layer.bias, geometry, kept, share)


def _passed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: _Geometry | None,
    kept: int,
    share: float,
) -> Tensor:
    found: Tensor = _SparsePasses.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, geometry, kept, share
    )
    return found


def _convolution(layer: Any, name: str) -> _Geometry:
    known = type(layer) in {nn.Conv1d, nn.Conv2d, nn.Conv3d}
    if not known or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise EngineError(
            f"weight {name} has no sparse passes: its layer is neither linear nor a "
            "convolution padded with zeros",
            remedy="Name it in the task's dense_layers, or use another algorithm.",
        )
    return _Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
