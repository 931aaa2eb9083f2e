"""The kernels as autograd functions: what each saves and what its gradients are."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import PoolArguments
from edge_sdk.kernels.library import pointer
from edge_sdk.kernels.structure import Structure
from edge_sdk.training.sparse.calls import (
    conv_backward,
    conv_forward,
    library_of,
    norm_arguments,
    norm_backward,
    pack,
    prepare_norm,
    prologue_of,
    ready,
    unpack,
)
from edge_sdk.training.sparse.memory import empty, empty_like
from edge_sdk.training.sparse.plans import (
    ActPlan,
    ConvPlan,
    NormState,
    PoolGeometry,
)

__all__ = ["MaxPool", "NormAct", "NormConv", "SparseConv", "SparseMatmul"]

Tensor = torch.Tensor


class SparseConv(torch.autograd.Function):
    """y = conv(relu?(x)) with kept weights only; saves x and nothing else."""

    @staticmethod
    def forward(  # noqa: D102 - the class says it
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan
    ) -> Tensor:
        x, weight = ready(x), weight.contiguous()
        ctx.save_for_backward(pack(x, plan.saved), weight)
        ctx.static = plan, bias is not None, x.dtype
        prologue = prologue_of(None, None, None, relu=plan.relu)
        return conv_forward(x, weight, bias, plan, prologue)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight = ctx.saved_tensors
        plan, has_bias, dtype = ctx.static
        found = conv_backward(
            unpack(x, dtype), weight, ready(dy), plan,
            prologue_of(None, None, None, relu=plan.relu),
            wants_x=ctx.needs_input_grad[0], wants_bias=has_bias,
        )  # fmt: skip
        return found.x, found.weight, found.bias, None


class NormConv(torch.autograd.Function):
    """y = conv(relu?(norm(x))): the activation is never stored.

    Forward, one pass writes the conv's padded input from x into work space. Backward,
    the activation is computed again in registers, where its tile is needed anyway.
    Saves x alone: one tensor per conv.
    """

    @staticmethod
    def forward(  # noqa: D102 - autograd passes by position
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, weight: Tensor,
        bias: Tensor | None, state: NormState, plan: ConvPlan,
    ) -> Tensor:  # fmt: skip
        x, weight = ready(x), weight.contiguous()
        mean, istd, scale, shift = prepare_norm(x, gamma, beta, state)
        saved = pack(x, plan.saved)
        ctx.save_for_backward(saved, gamma, weight, mean, istd, scale, shift)
        ctx.static = state, plan, bias is not None, x.dtype
        prologue = prologue_of(scale, shift, None, relu=plan.relu)
        return conv_forward(x, weight, bias, plan, prologue)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, gamma, weight, mean, istd, scale, shift = ctx.saved_tensors
        state, plan, has_bias, dtype = ctx.static
        x = unpack(x, dtype)
        found = conv_backward(
            x, weight, ready(dy), plan, prologue_of(scale, shift, None, relu=plan.relu),
            wants_x=True, wants_bias=has_bias,
        )  # fmt: skip
        dx = found.x
        assert dx is not None  # noqa: S101 - wants_x
        sums = norm_backward(x, None, dx, gamma, (mean, istd), state, dx, None)
        dgamma, dbeta = (None, None) if gamma is None else sums
        return dx, dgamma, dbeta, found.weight, found.bias, None, None


class NormAct(torch.autograd.Function):
    """y = relu?(norm(x) + residual?), stored because several layers read it."""

    @staticmethod
    def forward(  # noqa: D102 - autograd passes by position
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None,
        residual: Tensor | None, state: NormState, plan: ActPlan,
    ) -> Tensor:  # fmt: skip
        x = ready(x)
        residual = None if residual is None else ready(residual)
        mean, istd, scale, shift = prepare_norm(x, gamma, beta, state)
        y = empty_like(x)
        prologue = prologue_of(scale, shift, residual, relu=plan.relu)
        arguments = ctypes.byref(norm_arguments(x, state))
        library_of(x).call("fe_norm_apply", arguments, pointer(x), prologue, pointer(y))
        kept = y if plan.relu else None
        if plan.relu and plan.saved == torch.bfloat16:
            # y itself is not kept: one byte says where the ReLU is off (NaN is on).
            kept = torch.le(y, 0, out=empty(tuple(y.shape), torch.bool))
        ctx.save_for_backward(pack(x, plan.saved), kept, gamma, mean, istd)
        ctx.static = state, residual is not None, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, y, gamma, mean, istd = ctx.saved_tensors
        state, has_residual, dtype = ctx.static
        x, dy = unpack(x, dtype), ready(dy)
        if y is not None and y.dtype == torch.bool:
            dy = empty_like(dy).copy_(dy).masked_fill_(y, 0)
            y = None
        dresidual = empty_like(dy) if has_residual and y is not None else None
        dx = empty_like(x)
        sums = norm_backward(x, y, dy, gamma, (mean, istd), state, dx, dresidual)
        dgamma, dbeta = (None, None) if gamma is None else sums
        if has_residual and dresidual is None:
            dresidual = dy
        return dx, dgamma, dbeta, dresidual, None, None


class SparseMatmul(torch.autograd.Function):
    """y = W x + b for kept weights of a linear layer; x (blocks, in, lanes)."""

    @staticmethod
    def forward(  # noqa: D102 - autograd passes by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure,
        saved: torch.dtype,
    ) -> Tensor:  # fmt: skip
        x, weight = ready(x), weight.contiguous()
        blocks, features, lanes = x.shape
        if features != structure.shape[1]:
            raise EngineError(
                f"a linear layer of {structure.shape[1]} inputs met {features}"
            )
        y = empty((blocks, structure.shape[0], lanes), x.dtype)
        structure.kernels.call(
            "fe_linear_forward",
            *(structure.handle, lanes, blocks, torch.get_num_threads()),
            *(pointer(x), pointer(weight), pointer(bias), pointer(y)),
        )
        ctx.save_for_backward(pack(x, saved), weight)
        ctx.static = structure, bias is not None, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight = ctx.saved_tensors
        structure, has_bias, dtype = ctx.static
        x, dy = unpack(x, dtype), ready(dy)
        blocks, _, lanes = x.shape
        dx = empty_like(x) if ctx.needs_input_grad[0] else None
        dw = empty_like(weight)
        db = weight.new_empty(structure.shape[0]) if has_bias else None
        structure.kernels.call(
            "fe_linear_backward",
            *(structure.handle, lanes, blocks, torch.get_num_threads()),
            *(pointer(x), pointer(weight), pointer(dy)),
            *(pointer(dx), pointer(dw), pointer(db)),
        )
        return dx, dw, db, None, None


class MaxPool(torch.autograd.Function):
    """Max pooling with an optional ReLU; saves one byte per output, no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: PoolGeometry) -> Tensor:  # noqa: D102
        x = ready(x)
        blocks, channels, h, w, lanes = x.shape
        out = tuple(
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip(
                (h, w), geometry.padding, geometry.kernel, geometry.stride, strict=True
            )
        )
        if min(out) < 1:
            raise EngineError(f"a pool of {geometry.kernel} does not fit into {(h, w)}")
        y = empty((blocks, channels, *out, lanes), x.dtype)
        winner = empty(tuple(y.shape), torch.uint8)
        ctx.pool = PoolArguments(
            lanes, blocks * channels, torch.get_num_threads(), h, w, *out,
            *geometry.kernel, *geometry.stride, *geometry.padding, int(geometry.relu),
        )  # fmt: skip
        library_of(x).call(
            "fe_max_pool_forward", ctypes.byref(ctx.pool), pointer(x), pointer(y),
            pointer(winner),
        )  # fmt: skip
        ctx.save_for_backward(winner)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (winner,) = ctx.saved_tensors
        dy = ready(dy)
        dx = empty(tuple(ctx.shape), dy.dtype)
        addresses = pointer(dy), pointer(winner), pointer(dx)
        library_of(dy).call("fe_max_pool_backward", ctypes.byref(ctx.pool), *addresses)
        return dx, None
