"""The kernels on tensors: what the autograd functions call, without autograd."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import ConvArguments, NormArguments, PrologueArguments
from edge_sdk.kernels.library import Kernels, kernels, pointer
from edge_sdk.training.sparse.memory import empty, empty_like
from edge_sdk.training.sparse.plans import ConvGeometry, ConvPlan, NormState

__all__ = [
    "ConvGradients",
    "conv_backward",
    "conv_forward",
    "library_of",
    "norm_arguments",
    "norm_backward",
    "pack",
    "prepare_norm",
    "prologue_of",
    "ready",
    "unpack",
]

Tensor = torch.Tensor


def ready(x: Tensor) -> Tensor:
    """The tensor as kernels need it: contiguous and on a 64-byte boundary."""
    x = x.contiguous()
    return (
        x if x.data_ptr() % 64 == 0 else x.clone(memory_format=torch.contiguous_format)
    )


def pack(x: Tensor, saved: torch.dtype) -> Tensor:
    """The tensor as it waits for the backward pass."""
    if saved != torch.bfloat16:
        return x
    return empty(tuple(x.shape), saved).copy_(x)


def unpack(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor that waited, in the dtype the kernels compute in."""
    return x if x.dtype == dtype else empty(tuple(x.shape), dtype).copy_(x)


def _conv_arguments(x: Tensor, geometry: ConvGeometry) -> ConvArguments:
    blocks, _, h, w, lanes = x.shape
    return ConvArguments(
        *(blocks * lanes, lanes, blocks, torch.get_num_threads(), h, w),
        *(*geometry.stride, *geometry.padding, *geometry.dilation),
    )


def prologue_of(
    scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Any:
    """FePrologue by reference, or None where there is nothing to do."""
    if scale is None and residual is None and not relu:
        return None
    return ctypes.byref(
        PrologueArguments(pointer(scale), pointer(shift), pointer(residual), int(relu))
    )


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: ConvPlan, prologue: Any
) -> Tensor:
    """Y (blocks, out, H', W', lanes); raises EngineError if x does not fit."""
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
class ConvGradients:
    """dx (None where nobody asks), dw and db (None without a bias)."""

    x: Tensor | None
    weight: Tensor
    bias: Tensor | None


def conv_backward(
    x: Tensor, weight: Tensor, dy: Tensor, plan: ConvPlan, prologue: Any, *,
    wants_x: bool, wants_bias: bool,
) -> ConvGradients:  # fmt: skip
    """The gradients to input, kept weights and bias."""
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
    return ConvGradients(dx, dw, db)


def norm_arguments(x: Tensor, state: NormState) -> NormArguments:
    """FeNorm for a blocked tensor."""
    blocks, channels, lanes = x.shape[0], x.shape[1], x.shape[-1]
    pixels = x.numel() // (blocks * channels * lanes)
    return NormArguments(
        state.samples, lanes, blocks, torch.get_num_threads(), channels, pixels,
        state.groups, int(state.training), state.momentum, state.eps,
    )  # fmt: skip


def prepare_norm(
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
    library_of(x).call(
        "fe_norm_prepare", ctypes.byref(norm_arguments(x, state)), pointer(x),
        pointer(gamma), pointer(beta), pointer(state.running_mean),
        pointer(state.running_var), pointer(mean), pointer(istd), pointer(scale),
        pointer(shift),
    )  # fmt: skip
    return mean, istd, scale, shift


def norm_backward(
    x: Tensor, y: Tensor | None, dy: Tensor, gamma: Tensor | None,
    moments: tuple[Tensor, Tensor], state: NormState, dx: Tensor,
    dresidual: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fills dx (which may be dy) and dresidual; returns dgamma and dbeta."""
    dgamma, dbeta = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    library_of(x).call(
        "fe_norm_backward",
        *(ctypes.byref(norm_arguments(x, state)), pointer(x), pointer(y), pointer(dy)),
        *(pointer(gamma), pointer(moments[0]), pointer(moments[1]), pointer(dx)),
        *(pointer(dresidual), pointer(dgamma), pointer(dbeta)),
    )
    return dgamma, dbeta


def library_of(x: Tensor) -> Kernels:
    """The kernels of a tensor's dtype."""
    return kernels(x.dtype)
