"""The kernels as autograd functions: what each saves and what its gradients are."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import (
    ConvArguments,
    Kernels,
    NormArguments,
    PoolArguments,
    PrologueArguments,
    kernels,
    pointer,
)
from edge_sdk.kernels.structure import Structure
from edge_sdk.training.sparse.memory import empty, empty_like

__all__ = [
    "ActPlan",
    "ConvGeometry",
    "ConvPlan",
    "MaxPool",
    "NormAct",
    "NormConv",
    "NormState",
    "PoolGeometry",
    "SparseConv",
    "SparseMatmul",
]

Tensor = torch.Tensor
Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvGeometry:
    """Stride, zero padding and dilation, each (height, width)."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def output(self, size: tuple[int, int], kernel: Pair) -> Pair:
        """Output height and width.

        Raises:
            EngineError: If the kernel is larger than the padded input.
        """
        h, w = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        if h < 1 or w < 1:
            raise EngineError(
                f"a kernel of {kernel} does not fit into an input of {size} "
                f"with padding {self.padding}"
            )
        return h, w


@dataclass(frozen=True, eq=False)
class ConvPlan:
    """What a conv call needs beside its tensors.

    Attributes:
        structure: The frozen pattern.
        geometry: Stride, padding, dilation.
        relu: Whether the input passes a ReLU on its way in.
        saved: Dtype in which the input waits for the backward pass.
    """

    structure: Structure
    geometry: ConvGeometry
    relu: bool
    saved: torch.dtype


@dataclass(frozen=True)
class ActPlan:
    """Whether a ReLU follows a normalisation, and the dtype its input is kept in."""

    relu: bool
    saved: torch.dtype


@dataclass(frozen=True)
class PoolGeometry:
    """Kernel, stride and padding of a max pool, and whether a ReLU is fused."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    relu: bool = False


@dataclass(frozen=True, eq=False)
class NormState:
    """What a normalisation needs beside gamma and beta.

    Attributes:
        samples: Valid samples in the batch.
        groups: 0 for batch norm.
        training: Batch statistics (True) or running ones.
        momentum: Weight of the new statistics in the running ones.
        eps: Added to the variance.
        running_mean: (C,), updated in place when training; may be None.
        running_var: (C,), likewise.
    """

    samples: int
    groups: int
    training: bool
    momentum: float
    eps: float
    running_mean: Tensor | None
    running_var: Tensor | None


def _ready(x: Tensor) -> Tensor:
    """The tensor as kernels need it: contiguous and on a 64-byte boundary."""
    x = x.contiguous()
    return (
        x if x.data_ptr() % 64 == 0 else x.clone(memory_format=torch.contiguous_format)
    )


def _pack(x: Tensor, saved: torch.dtype) -> Tensor:
    return x.to(saved) if saved == torch.bfloat16 else x


def _conv_arguments(x: Tensor, geometry: ConvGeometry) -> ConvArguments:
    blocks, _, h, w, lanes = x.shape
    return ConvArguments(
        *(blocks * lanes, lanes, blocks, torch.get_num_threads(), h, w),
        *(*geometry.stride, *geometry.padding, *geometry.dilation),
    )


def _prologue(
    scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Any:
    if scale is None and residual is None and not relu:
        return None
    return ctypes.byref(
        PrologueArguments(pointer(scale), pointer(shift), pointer(residual), int(relu))
    )


def _conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan, prologue: Any
) -> Tensor:
    structure, geometry = plan.structure, plan.geometry
    blocks, channels, h, w, lanes = x.shape
    rows, width, *kernel = structure.shape
    if channels != width * structure.groups:
        raise EngineError(
            f"a conv of {width * structure.groups} input channels met {channels}"
        )
    out = geometry.output((h, w), (kernel[0], kernel[1]))
    y = empty((blocks, rows, *out, lanes), x.dtype)
    arguments = ctypes.byref(_conv_arguments(x, geometry))
    structure.kernels.call(
        "fe_conv_forward",
        *(structure.handle, arguments, pointer(x), prologue),
        *(pointer(weight), pointer(bias), pointer(y)),
    )
    return y


@dataclass(frozen=True, eq=False)
class _ConvGradients:
    """dx (None where nobody asks), dw and db (None without a bias)."""

    x: Tensor | None
    weight: Tensor
    bias: Tensor | None


def _conv_backward(
    x: Tensor, weight: Tensor, dy: Tensor, plan: ConvPlan, prologue: Any, *,
    wants_x: bool, wants_bias: bool,
) -> _ConvGradients:  # fmt: skip
    structure = plan.structure
    dx = empty_like(x) if wants_x else None
    dw = empty_like(weight)
    db = weight.new_empty(structure.shape[0]) if wants_bias else None
    arguments = ctypes.byref(_conv_arguments(x, plan.geometry))
    structure.kernels.call(
        "fe_conv_backward",
        *(structure.handle, arguments, pointer(x), prologue, pointer(weight)),
        *(pointer(dy), pointer(dx), pointer(dw), pointer(db)),
    )
    return _ConvGradients(dx, dw, db)


class SparseConv(torch.autograd.Function):
    """y = conv(relu?(x)) with kept weights only; saves x and nothing else."""

    @staticmethod
    def forward(  # noqa: D102 - the class says it
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan
    ) -> Tensor:
        x, weight = _ready(x), weight.contiguous()
        ctx.save_for_backward(_pack(x, plan.saved), weight)
        ctx.static = plan, bias is not None, x.dtype
        prologue = _prologue(None, None, None, relu=plan.relu)
        return _conv_forward(x, weight, bias, plan, prologue)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight = ctx.saved_tensors
        plan, has_bias, dtype = ctx.static
        found = _conv_backward(
            x.to(dtype), weight, _ready(dy), plan,
            _prologue(None, None, None, relu=plan.relu),
            wants_x=ctx.needs_input_grad[0], wants_bias=has_bias,
        )  # fmt: skip
        return found.x, found.weight, found.bias, None


def _norm_arguments(x: Tensor, state: NormState) -> NormArguments:
    blocks, channels, lanes = x.shape[0], x.shape[1], x.shape[-1]
    pixels = x.numel() // (blocks * channels * lanes)
    return NormArguments(
        state.samples, lanes, blocks, torch.get_num_threads(), channels, pixels,
        state.groups, int(state.training), state.momentum, state.eps,
    )  # fmt: skip


def _prepare(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, state: NormState
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean, istd, and the scale and shift they give: (blocks, C, lanes) each."""
    blocks, channels, lanes = x.shape[0], x.shape[1], x.shape[-1]
    shape = (blocks, state.groups, lanes) if state.groups else (channels,)
    mean, istd = x.new_empty(shape), x.new_empty(shape)
    scale, shift = (
        x.new_empty(blocks, channels, lanes),
        x.new_empty(blocks, channels, lanes),
    )
    _library(x).call(
        "fe_norm_prepare", ctypes.byref(_norm_arguments(x, state)), pointer(x),
        pointer(gamma), pointer(beta), pointer(state.running_mean),
        pointer(state.running_var), pointer(mean), pointer(istd), pointer(scale),
        pointer(shift),
    )  # fmt: skip
    return mean, istd, scale, shift


def _norm_backward(  # noqa: PLR0917 - the kernel's own order
    x: Tensor, y: Tensor | None, dy: Tensor, gamma: Tensor | None,
    moments: tuple[Tensor, Tensor], state: NormState, dx: Tensor,
    dresidual: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fills dx (which may be dy) and dresidual; returns dgamma and dbeta."""
    dgamma, dbeta = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    _library(x).call(
        "fe_norm_backward",
        *(ctypes.byref(_norm_arguments(x, state)), pointer(x), pointer(y), pointer(dy)),
        *(pointer(gamma), pointer(moments[0]), pointer(moments[1]), pointer(dx)),
        *(pointer(dresidual), pointer(dgamma), pointer(dbeta)),
    )
    return dgamma, dbeta


def _library(x: Tensor) -> Kernels:
    return kernels(x.dtype)


class NormConv(torch.autograd.Function):
    """y = conv(relu?(norm(x))): the activation is never stored.

    Forward, one pass writes the conv's padded input from x into work space. Backward,
    the activation is computed again in registers, where its tile is needed anyway.
    Saves x alone: one tensor per conv.
    """

    @staticmethod
    def forward(  # noqa: D102, PLR0917 - autograd passes by position
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, weight: Tensor,
        bias: Tensor | None, state: NormState, plan: ConvPlan,
    ) -> Tensor:  # fmt: skip
        x, weight = _ready(x), weight.contiguous()
        mean, istd, scale, shift = _prepare(x, gamma, beta, state)
        saved = _pack(x, plan.saved)
        ctx.save_for_backward(saved, gamma, weight, mean, istd, scale, shift)
        ctx.static = state, plan, bias is not None, x.dtype
        prologue = _prologue(scale, shift, None, relu=plan.relu)
        return _conv_forward(x, weight, bias, plan, prologue)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, gamma, weight, mean, istd, scale, shift = ctx.saved_tensors
        state, plan, has_bias, dtype = ctx.static
        x = x.to(dtype)
        found = _conv_backward(
            x, weight, _ready(dy), plan, _prologue(scale, shift, None, relu=plan.relu),
            wants_x=True, wants_bias=has_bias,
        )  # fmt: skip
        dx = found.x
        assert dx is not None  # noqa: S101 - wants_x
        sums = _norm_backward(x, None, dx, gamma, (mean, istd), state, dx, None)
        dgamma, dbeta = (None, None) if gamma is None else sums
        return dx, dgamma, dbeta, found.weight, found.bias, None, None


class NormAct(torch.autograd.Function):
    """y = relu?(norm(x) + residual?), stored because several layers read it."""

    @staticmethod
    def forward(  # noqa: D102, PLR0917 - autograd passes by position
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None,
        residual: Tensor | None, state: NormState, plan: ActPlan,
    ) -> Tensor:  # fmt: skip
        x = _ready(x)
        residual = None if residual is None else _ready(residual)
        mean, istd, scale, shift = _prepare(x, gamma, beta, state)
        y = empty_like(x)
        prologue = _prologue(scale, shift, residual, relu=plan.relu)
        arguments = ctypes.byref(_norm_arguments(x, state))
        _library(x).call("fe_norm_apply", arguments, pointer(x), prologue, pointer(y))
        sign = y if plan.relu else None
        if sign is not None and plan.saved == torch.bfloat16:
            sign = (y > 0) | y.isnan()  # one byte where y itself is not kept
        ctx.save_for_backward(_pack(x, plan.saved), sign, gamma, mean, istd)
        ctx.static = state, residual is not None, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, sign, gamma, mean, istd = ctx.saved_tensors
        state, has_residual, dtype = ctx.static
        x, dy = x.to(dtype), _ready(dy)
        y = None if sign is None else sign.to(dtype)
        dresidual = empty_like(dy) if has_residual and y is not None else None
        dx = empty_like(x)
        sums = _norm_backward(x, y, dy, gamma, (mean, istd), state, dx, dresidual)
        dgamma, dbeta = (None, None) if gamma is None else sums
        if has_residual and dresidual is None:
            dresidual = dy
        return dx, dgamma, dbeta, dresidual, None, None


class SparseMatmul(torch.autograd.Function):
    """y = W x + b for kept weights of a linear layer; x (blocks, in, lanes)."""

    @staticmethod
    def forward(  # noqa: D102, PLR0917 - autograd passes by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, structure: Structure,
        saved: torch.dtype,
    ) -> Tensor:  # fmt: skip
        x, weight = _ready(x), weight.contiguous()
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
        ctx.save_for_backward(_pack(x, saved), weight)
        ctx.static = structure, bias is not None, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight = ctx.saved_tensors
        structure, has_bias, dtype = ctx.static
        x, dy = x.to(dtype), _ready(dy)
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
        x = _ready(x)
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
        _library(x).call(
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
        dy = _ready(dy)
        dx = empty(tuple(ctx.shape), dy.dtype)
        addresses = pointer(dy), pointer(winner), pointer(dx)
        _library(dy).call("fe_max_pool_backward", ctypes.byref(ctx.pool), *addresses)
        return dx, None
