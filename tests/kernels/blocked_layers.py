"""Kernels of layers as autograd functions on blocked tensors, to test beside torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.autograd.function import once_differentiable

from edge_sdk.kernels.interface import (
    ConvArguments,
    NormArguments,
    PoolArguments,
    PrologueArguments,
)
from edge_sdk.kernels.library import kernels
from edge_sdk.kernels.structure import Structure

Tensor = torch.Tensor
Pair = tuple[int, int]


def to_blocked(x: Tensor, lanes: int) -> Tensor:
    """(N, ...) to (blocks, ..., lanes), padded lanes zero."""
    samples = x.shape[0]
    blocks = -(-samples // lanes)
    if blocks * lanes != samples:
        x = F.pad(x, (0, 0) * (x.dim() - 1) + (0, blocks * lanes - samples))
    return x.reshape(blocks, lanes, *x.shape[1:]).movedim(1, -1).contiguous()


def unblocked(x: Tensor, samples: int) -> Tensor:
    y = x.movedim(-1, 1)
    return y.reshape(-1, *y.shape[2:])[:samples]


def pointer(tensor: Tensor | None) -> int | None:
    """A tensor's address for ctypes; None stays a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def error(ours: Tensor, reference: Tensor) -> float:
    """Largest error relative to the largest value."""
    if not reference.numel():
        return 0.0
    scale = float(reference.abs().max()) + 1e-9
    return float((ours.double() - reference).abs().max()) / scale


def empty(shape: Any, dtype: torch.dtype) -> Tensor:
    """NaN, on a 64-byte boundary: what a kernel forgets to write shows."""
    count = 1
    for n in shape:
        count *= n
    raw = torch.full((count + 16,), float("nan"), dtype=dtype)
    start = -raw.data_ptr() % 64 // dtype.itemsize
    return raw[start : start + count].view(tuple(shape))


def ready(x: Tensor) -> Tensor:
    """Contiguous and on a 64-byte boundary."""
    return empty(x.shape, x.dtype).copy_(x)


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution's pattern and geometry, and the activation on its way in."""

    structure: Structure
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    relu: int = 0

    def arguments(self, x: Tensor) -> Any:
        blocks, _, h, w, lanes = x.shape
        return ctypes.byref(
            ConvArguments(
                *(blocks * lanes, lanes, blocks, torch.get_num_threads(), h, w),
                *(*self.stride, *self.padding, *self.dilation),
            )
        )

    def output(self, x: Tensor) -> tuple[int, ...]:
        blocks, _, *size, lanes = x.shape
        rows, _, *kernel = self.structure.shape
        found = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, kernel, self.stride, strict=True
            )
        ]
        return (blocks, rows, *found, lanes)


def prologue(
    relu: int, scale: Tensor | None = None, shift: Tensor | None = None
) -> Any:
    if not relu and scale is None:
        return None
    return ctypes.byref(PrologueArguments(pointer(scale), pointer(shift), None, relu))


def conv_forward(
    x: Tensor, w: Tensor, bias: Tensor | None, conv: Conv, way_in: Any
) -> Tensor:
    y = empty(conv.output(x), x.dtype)
    conv.structure.kernels.call(
        "fe_conv_forward",
        *(conv.structure.handle, conv.arguments(x), pointer(x), way_in),
        *(pointer(w), pointer(bias), pointer(y)),
    )
    return y


def conv_backward(
    x: Tensor, w: Tensor, dy: Tensor, conv: Conv, way_in: Any, dx: Tensor | None, *,
    bias: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    dw = empty(w.shape, w.dtype)
    db = empty((conv.structure.shape[0],), w.dtype) if bias else None
    conv.structure.kernels.call(
        "fe_conv_backward",
        *(conv.structure.handle, conv.arguments(x), pointer(x), way_in, pointer(w)),
        *(pointer(dy), pointer(dx), pointer(dw), pointer(db)),
    )
    return dw, db


class SparseConv(torch.autograd.Function):
    """y = conv(relu?(x)) with kept weights only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, conv: Conv
    ) -> Tensor:
        x, w = ready(x), ready(w)
        ctx.save_for_backward(x, w)
        ctx.static = conv, bias is not None
        return conv_forward(x, w, bias, conv, prologue(conv.relu))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        conv, bias = ctx.static
        dx = empty(x.shape, x.dtype) if ctx.needs_input_grad[0] else None
        way_in = prologue(conv.relu)
        return (
            dx,
            *conv_backward(x, w, ready(dy), conv, way_in, dx, bias=bias),
            None,
        )


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalisation's constants and running statistics."""

    samples: int
    groups: int = 0
    training: bool = True
    activation: int = 0
    momentum: float = 0.1
    eps: float = 1e-5
    running: tuple[Tensor | None, Tensor | None] = (None, None)

    def arguments(self, x: Tensor, activation: int) -> Any:
        blocks, channels, *size, lanes = x.shape
        pixels = 1
        for n in size:
            pixels *= n
        return ctypes.byref(
            NormArguments(
                *(self.samples, lanes, blocks, torch.get_num_threads(), channels),
                *(pixels, self.groups, int(self.training), self.momentum, self.eps),
                activation,
            )
        )

    def moments(self, x: Tensor) -> tuple[Tensor, ...]:
        """Room for mean, 1 / deviation, scale and shift."""
        blocks, channels, lanes = x.shape[0], x.shape[1], x.shape[-1]
        each = (blocks, self.groups, lanes) if self.groups else (channels,)
        affine = (blocks, channels, lanes)
        return tuple(empty(s, x.dtype) for s in (each, each, affine, affine))

    def backward(
        self, x: Tensor, y: Tensor | None, dy: Tensor, gamma: Tensor,
        moments: tuple[Tensor, ...], dx: Tensor, dresidual: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        dgamma, dbeta = (empty(gamma.shape, x.dtype) for _ in range(2))
        kernels(x.dtype).call(
            "fe_norm_backward",
            *(self.arguments(x, self.activation if y is not None else 0), pointer(x)),
            *(pointer(y), pointer(dy), pointer(gamma), pointer(moments[0])),
            *(pointer(moments[1]), pointer(dx), pointer(dresidual)),
            *(pointer(dgamma), pointer(dbeta)),
        )
        return dgamma, dbeta


class NormAct(torch.autograd.Function):
    """y = activation(norm(x) + residual?)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None,
        norm: Norm,
    ) -> Tensor:  # fmt: skip
        x = ready(x)
        given = None if residual is None else ready(residual)
        moments, y = norm.moments(x), empty(x.shape, x.dtype)
        kernels(x.dtype).call(
            "fe_norm_forward",
            *(norm.arguments(x, norm.activation), pointer(x), pointer(gamma)),
            *(pointer(beta), *map(pointer, norm.running), pointer(given)),
            *(*map(pointer, moments), pointer(y)),
        )
        ctx.save_for_backward(x, y, gamma, *moments)
        ctx.static = norm, residual is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma, *moments = ctx.saved_tensors
        norm, has_residual = ctx.static
        dx = empty(x.shape, x.dtype)
        dresidual = empty(x.shape, x.dtype) if has_residual else None
        after = y if norm.activation else None
        dy = ready(dy)
        found = norm.backward(x, after, dy, gamma, tuple(moments), dx, dresidual)
        return dx, *found, dresidual, None


class NormConv(torch.autograd.Function):
    """y = conv(activation(norm(x))), the activation never stored."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, w: Tensor, bias: Tensor,
        norm: Norm, conv: Conv,
    ) -> Tensor:  # fmt: skip
        x, w = ready(x), ready(w)
        moments = norm.moments(x)
        kernels(x.dtype).call(
            "fe_norm_prepare",
            *(norm.arguments(x, 0), pointer(x), pointer(gamma), pointer(beta)),
            *(*map(pointer, norm.running), *map(pointer, moments)),
        )
        ctx.save_for_backward(x, w, gamma, *moments)
        ctx.static = norm, conv
        return conv_forward(x, w, bias, conv, prologue(conv.relu, *moments[2:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, gamma, *moments = ctx.saved_tensors
        norm, conv = ctx.static
        dx, way_in = empty(x.shape, x.dtype), prologue(conv.relu, *moments[2:])
        dw, db = conv_backward(x, w, ready(dy), conv, way_in, dx, bias=True)
        found = norm.backward(x, None, dx, gamma, tuple(moments), dx, None)
        return dx, *found, dw, db, None, None


class SparseMatmul(torch.autograd.Function):
    """y = W x + b for kept weights of a linear layer; x (blocks, in, lanes)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, structure: Structure
    ) -> Tensor:
        x, w = ready(x), ready(w)
        blocks, _, lanes = x.shape
        y = empty((blocks, structure.shape[0], lanes), x.dtype)
        structure.kernels.call(
            "fe_linear_forward",
            *(structure.handle, lanes, blocks, torch.get_num_threads()),
            *(pointer(x), pointer(w), pointer(bias), pointer(y)),
        )
        ctx.save_for_backward(x, w)
        ctx.static = structure, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        structure, bias = ctx.static
        blocks, _, lanes = x.shape
        dy = ready(dy)
        dx = empty(x.shape, x.dtype) if ctx.needs_input_grad[0] else None
        dw = empty(w.shape, w.dtype)
        db = empty((structure.shape[0],), w.dtype) if bias else None
        structure.kernels.call(
            "fe_linear_backward",
            *(structure.handle, lanes, blocks, torch.get_num_threads()),
            *(pointer(x), pointer(w), pointer(dy)),
            *(pointer(dx), pointer(dw), pointer(db)),
        )
        return dx, dw, db, None


class MaxPool(torch.autograd.Function):
    """Max pooling with an optional ReLU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, relu: bool
    ) -> Tensor:
        x = ready(x)
        blocks, channels, h, w, lanes = x.shape
        out = [
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip((h, w), padding, kernel, stride, strict=True)
        ]
        y = empty((blocks, channels, *out, lanes), x.dtype)
        winner = torch.empty(y.shape, dtype=torch.uint8)
        ctx.pool = PoolArguments(
            lanes, blocks * channels, torch.get_num_threads(), h, w, *out, *kernel,
            *stride, *padding, int(relu),
        )  # fmt: skip
        kernels(x.dtype).call(
            "fe_max_pool_forward", ctypes.byref(ctx.pool), pointer(x), pointer(y),
            pointer(winner),
        )  # fmt: skip
        ctx.save_for_backward(winner)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (winner,) = ctx.saved_tensors
        dx, dy = empty(ctx.shape, dy.dtype), ready(dy)
        addresses = pointer(dy), pointer(winner), pointer(dx)
        kernels(dy.dtype).call(
            "fe_max_pool_backward", ctypes.byref(ctx.pool), *addresses
        )
        return dx, None, None, None, None
