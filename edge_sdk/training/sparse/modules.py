"""Layers on the blocked layout; each keeps the names of the layer it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import nn

from edge_sdk.kernels.structure import Structure
from edge_sdk.training.sparse.functions import (
    MaxPool,
    NormAct,
    NormConv,
    SparseConv,
    SparseMatmul,
)
from edge_sdk.training.sparse.layout import Batch
from edge_sdk.training.sparse.plans import (
    ActPlan,
    ConvGeometry,
    ConvPlan,
    NormState,
    PoolGeometry,
)

__all__ = [
    "BlockedMaxPool",
    "BlockedMean",
    "BlockedNorm",
    "BlockedSpatial",
    "MaskedConv2d",
    "MaskedLinear",
    "SparseConv2d",
    "SparseLinear",
]

Tensor = torch.Tensor


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    apply = cast("Callable[..., Tensor]", function.apply)
    return apply(*arguments)


class _Sparse(nn.Module):
    """Kept values as a flat Parameter; a full pattern keeps the weight's own shape.

    `weight` is (nnz,) in canonical CSR order, so gradients, optimizer state and the
    wire have nnz entries. A layer without a mask has its ordinary dense weight.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        pattern: NDArray[np.bool_] | None,
        groups: int,
        batch: Batch,
    ) -> None:
        super().__init__()
        self.batch = batch
        self.shape = tuple(weight.shape)
        # One bit per dense weight, not one byte: it is only read when all is rebuilt.
        self._packed = None if pattern is None else np.packbits(pattern)
        self.groups = groups
        dense = weight.detach()
        kept = dense.clone() if pattern is None else dense[torch.tensor(pattern)]
        self.weight = nn.Parameter(kept, requires_grad=weight.requires_grad)
        self.bias = cast("nn.Parameter | None", bias)
        self._structures: dict[torch.dtype, Structure] = {}
        self.structure()

    @property
    def pattern(self) -> NDArray[np.bool_]:
        """Boolean, of the dense weight's shape; unpacked anew each time."""
        if self._packed is None:
            return np.ones(self.shape, np.bool_)
        bits = np.unpackbits(self._packed, count=math.prod(self.shape))
        return bits.view(np.bool_).reshape(self.shape)

    def structure(self) -> Structure:
        """The native structure for the weight's present dtype."""
        dtype = self.weight.dtype
        if dtype not in self._structures:
            self._structures[dtype] = Structure.of(
                self.pattern, groups=self.groups, dtype=dtype
            )
        return self._structures[dtype]

    def flat(self) -> Tensor:
        """The kept values as the kernels read them: (nnz,)."""
        return self.weight.reshape(-1)

    def dense_weight(self) -> Tensor:
        """The weight as the ordinary layer has it, exact zeros off the mask."""
        values = self.weight.detach()
        full = values.new_zeros(self.shape)
        full[torch.from_numpy(self.pattern)] = values.reshape(-1)
        return full

    def __getstate__(self) -> dict[str, object]:
        # A native handle cannot be copied or pickled; its digest finds it again.
        return {**self.__dict__, "_structures": {}}


class SparseConv2d(_Sparse):
    """A convolution over (blocks, C, H, W, lanes) that computes only what it keeps.

    Args:
        layer: The dense layer; zero padding mode, any groups, stride, dilation.
        pattern: Boolean, of the weight's shape; None keeps everything.
        batch: Shared with the model's other layers.
    """

    def __init__(
        self, layer: nn.Conv2d, pattern: NDArray[np.bool_] | None, batch: Batch
    ) -> None:
        super().__init__(layer.weight, layer.bias, pattern, layer.groups, batch)
        padding = layer.padding
        if isinstance(padding, str):
            spread = zip(layer.kernel_size, layer.dilation, strict=True)
            padding = tuple(
                0 if layer.padding == "valid" else d * (k - 1) // 2 for k, d in spread
            )
        self.geometry = ConvGeometry(
            cast("tuple[int, int]", layer.stride),
            cast("tuple[int, int]", padding),
            cast("tuple[int, int]", layer.dilation),
        )
        self.relu_before = False
        # In a tuple, so that the norm stays registered under its own name only.
        self._norm_before: tuple[BlockedNorm] | None = None

    def follow(self, norm: BlockedNorm | None, *, relu: bool) -> None:
        """Takes the normalisation and ReLU before this layer into its own passes."""
        self._norm_before = None if norm is None else (norm,)
        if norm is not None:
            norm.deferred = True
        self.relu_before = relu

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, in, H, W, lanes) to (blocks, out, H', W', lanes)."""
        plan = ConvPlan(
            self.structure(), self.geometry, self.relu_before, self.batch.saved
        )
        if self._norm_before is None:
            return _apply(SparseConv, x, self.flat(), self.bias, plan)
        norm = self._norm_before[0]
        affine = norm.weight, norm.bias
        return _apply(NormConv, x, *affine, self.flat(), self.bias, norm.state(x), plan)

    def extra_repr(self) -> str:
        """Shape and kept weights."""
        return f"{self.shape}, kept={self.weight.numel()}, {self.geometry}"


class SparseLinear(_Sparse):
    """A linear layer over (blocks, in, lanes) that computes only what it keeps."""

    def __init__(
        self, layer: nn.Linear, pattern: NDArray[np.bool_] | None, batch: Batch
    ) -> None:
        super().__init__(layer.weight, layer.bias, pattern, 1, batch)

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, in, lanes) to (blocks, out, lanes)."""
        saved = self.batch.saved
        return _apply(SparseMatmul, x, self.flat(), self.bias, self.structure(), saved)

    def extra_repr(self) -> str:
        """Shape and kept weights."""
        return f"{self.shape}, kept={self.weight.numel()}"


class _Masked(nn.Module):
    """Kept values scattered into a dense weight: for layers too dense to gain."""

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, pattern: NDArray[np.bool_]
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.at = torch.from_numpy(np.flatnonzero(pattern))  # not state: from the mask
        weight = layer.weight
        self.weight = nn.Parameter(
            weight.detach().reshape(-1)[self.at], requires_grad=weight.requires_grad
        )
        self.bias = layer.bias

    def dense_weight(self) -> Tensor:
        """The weight as the ordinary layer has it, differentiable."""
        zeros = self.weight.new_zeros(self.pattern.size)
        return zeros.index_copy(0, self.at, self.weight).view(self.pattern.shape)


class MaskedConv2d(_Masked):
    """A masked convolution on torch's own kernels; (N, C, H, W)."""

    def __init__(self, layer: nn.Conv2d, pattern: NDArray[np.bool_]) -> None:
        super().__init__(layer, pattern)
        self.keywords = {
            name: getattr(layer, name)
            for name in ("stride", "padding", "dilation", "groups")
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        return F.conv2d(x, self.dense_weight(), self.bias, **self.keywords)


class MaskedLinear(_Masked):
    """A masked linear layer on torch's own kernels; (..., in)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(x, self.dense_weight(), self.bias)


class BlockedNorm(nn.Module):
    """Batch or group normalisation with an optional residual and ReLU after it.

    Parameters and buffers are the ordinary layer's own, under the same names.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, layer: nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm, batch: Batch
    ) -> None:
        super().__init__()
        self.batch = batch
        self.relu_after = False
        self.deferred = False  # the following conv does this layer's work
        self.eps = layer.eps
        self.groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else 0
        self.momentum: float | None = None
        self.weight, self.bias = layer.weight, layer.bias
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        for name in buffers:
            self.register_buffer(name, getattr(layer, name, None))
        if not isinstance(layer, nn.GroupNorm):
            self.momentum = layer.momentum

    def state(self, x: Tensor) -> NormState:
        """Statistics of this step, to use and update; counts a training batch.

        Raises:
            ValueError: As torch: in training, one value per channel has no variance.
        """
        pixels = x.numel() // (x.shape[0] * x.shape[1] * x.shape[-1])
        if self.training and not self.groups and self.batch.samples * pixels == 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got one sample "
                "of one pixel"
            )
        own = self.training or self.running_mean is None
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None and not self.groups:
                momentum = 1.0 / float(self.num_batches_tracked)
        keep = self.training or not own
        return NormState(
            samples=self.batch.samples,
            groups=self.groups,
            training=own,
            momentum=momentum or 0.0,
            eps=self.eps,
            running_mean=self.running_mean if keep else None,
            running_var=self.running_var if keep else None,
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu?(norm(x) + residual?), blocked (blocks, C, [H, W,] lanes) throughout."""
        if self.deferred:
            return x
        plan = ActPlan(self.relu_after, self.batch.saved)
        return _apply(NormAct, x, self.weight, self.bias, residual, self.state(x), plan)


class BlockedMaxPool(nn.Module):
    """Max pooling over (blocks, C, H, W, lanes), ReLU fused where the model has one."""

    def __init__(self, geometry: PoolGeometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, lanes) to (blocks, C, H', W', lanes)."""
        return _apply(MaxPool, x, self.geometry)


class BlockedMean(nn.Module):
    """Global average over height and width."""

    def __init__(self, *, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, lanes) to (blocks, C, [1, 1,] lanes)."""
        return x.mean((2, 3), keepdim=self.keepdim)


class BlockedSpatial(nn.Module):
    """Average pooling by torch's own kernels; in a view, lanes play the channels."""

    def __init__(self, kind: str, *arguments: object, **keywords: object) -> None:
        super().__init__()
        self.kind, self.arguments, self.keywords = kind, arguments, keywords

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, lanes) to (blocks, C, H', W', lanes)."""
        blocks, channels, h, w, lanes = x.shape
        planes = x.reshape(blocks * channels, h, w, lanes).permute(0, 3, 1, 2)
        y = getattr(F, self.kind)(planes, *self.arguments, **self.keywords)
        out = y.permute(0, 2, 3, 1)
        return cast("Tensor", out.reshape(blocks, channels, *out.shape[1:3], lanes))
