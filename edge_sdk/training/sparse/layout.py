"""The blocked layout, samples innermost: how wide, and the ways in and out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels

__all__ = ["Batch", "FromBlocked", "ToBlocked", "lane_width", "to_blocked"]


@dataclass
class Batch:
    """Facts about the batch now passing through, shared by the layers of one model.

    Attributes:
        samples: Valid samples; the last block's other lanes are padding.
        saved: Dtype in which activations wait for the backward pass: float32, or
            bfloat16 for half the memory and rounded gradients.
    """

    samples: int = 0
    saved: torch.dtype = torch.float32


def lane_width(samples: int, dtype: torch.dtype = torch.float32) -> int:
    """Lanes per block, 4, 8 or 16, for the least time over one batch.

    A padded lane costs as much as a valid one, and lanes narrower than the hardware's
    vectors leave part of each idle. FLASH_EDGE_LANES overrides it.

    Example:
        >>> lane_width(32)
        16
    """
    forced = os.environ.get("FLASH_EDGE_LANES")
    if forced:
        if forced not in {"4", "8", "16"}:
            raise EngineError(f"FLASH_EDGE_LANES is {forced!r}, not 4, 8 or 16")
        return int(forced)
    width = kernels(dtype).vector_bytes // dtype.itemsize
    return min(
        (16, 8, 4),
        key=lambda lanes: -(-samples // lanes) * lanes * max(1, width // lanes),
    )


def to_blocked(x: torch.Tensor, lanes: int) -> torch.Tensor:
    """(N, C, H, W) to (blocks, C, H, W, lanes), or (N, F) to (blocks, F, lanes)."""
    samples = x.shape[0]
    blocks = -(-samples // lanes)
    if blocks * lanes != samples:
        x = F.pad(x, (0, 0) * (x.dim() - 1) + (0, blocks * lanes - samples))
    return x.reshape(blocks, lanes, *x.shape[1:]).movedim(1, -1).contiguous()


class ToBlocked(nn.Module):
    """Entry into the blocked layout; notes the batch size for the layers after it."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) or (N, F) to blocks.

        Raises:
            EngineError: If the tensor has another number of axes, no samples, or is
                neither float32 nor float64 on the CPU.
        """
        if x.dim() not in {2, 4} or 0 in x.shape:
            raise EngineError(
                f"the sparse engine takes (N, C, H, W) or (N, F) with N >= 1, not "
                f"{tuple(x.shape)}"
            )
        if x.dtype not in {torch.float32, torch.float64} or x.device.type != "cpu":
            raise EngineError(
                "the sparse engine takes float32 on the CPU, not "
                f"{x.dtype} on {x.device}"
            )
        self.batch.samples = x.shape[0]
        return to_blocked(x, lane_width(x.shape[0], x.dtype))


class FromBlocked(nn.Module):
    """Exit from the blocked layout; drops the padding."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(blocks, C, H, W, lanes) to (N, C, H, W), or (blocks, F, lanes) to (N, F)."""
        y: torch.Tensor = _Leave.apply(x, self.batch.samples)  # type: ignore[no-untyped-call]
        return y


class _Leave(torch.autograd.Function):
    """Out of the blocked layout; the gradient comes back contiguous.

    Autograd's own way is a strided view: on it torch's ReLU backward took three times
    as long (0.28 ms of FEMNIST's 9).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, samples: int) -> torch.Tensor:
        ctx.lanes = x.shape[-1]
        y = x.movedim(-1, 1)
        return y.reshape(-1, *y.shape[2:])[:samples]

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        return to_blocked(dy, ctx.lanes), None
