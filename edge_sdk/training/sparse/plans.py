"""Arguments of a kernel call beside its tensors: geometry, pattern, constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edge_sdk.errors import EngineError
from edge_sdk.kernels.structure import Structure

__all__ = ["ActPlan", "ConvGeometry", "ConvPlan", "NormState", "Pair", "PoolGeometry"]

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
    """Arguments of a convolution beside its tensors.

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
    """Arguments of an activation: ReLU or none, and the dtype its input is kept in."""

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
    """Arguments of a normalisation beside gamma and beta.

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
