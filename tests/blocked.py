"""Blocked tensors for tests that call kernels by hand: ways in and out, tolerances."""

from __future__ import annotations

import ctypes
from ctypes import Structure
from typing import Any

import torch

from edge_sdk.kernels.library import Kernels, kernels

__all__ = [
    "DTYPES",
    "blocks_of",
    "call",
    "code_of",
    "near",
    "pack",
    "pointer",
    "unpack",
]

DTYPES = (torch.float64, torch.float32)
# Relative to the largest value; sums of some thousand terms are behind the worst.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def pointer(tensor: torch.Tensor | None) -> int | None:
    """A tensor's address for ctypes; None stays a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def blocks_of(samples: int, lanes: int) -> int:
    return -(-samples // lanes)


def pack(x: torch.Tensor, lanes: int) -> torch.Tensor:
    """(N, ...) to (blocks, ..., lanes), zeros in padded lanes."""
    blocks = blocks_of(len(x), lanes)
    padding = x.new_zeros(blocks * lanes - len(x), *x.shape[1:])
    whole = torch.cat([x, padding]).reshape(blocks, lanes, *x.shape[1:])
    return whole.movedim(1, -1).contiguous().clone()


def unpack(x: torch.Tensor, samples: int) -> torch.Tensor:
    """(blocks, ..., lanes) to (N, ...); padded lanes must be finite."""
    assert x.isfinite().all()
    flat = x.movedim(-1, 1)
    return flat.reshape(-1, *flat.shape[2:])[:samples]


def _plain(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return pointer(argument)
    return ctypes.byref(argument) if isinstance(argument, Structure) else argument


def _library(arguments: tuple[Any, ...]) -> Kernels:
    real = (torch.float32, torch.float64)
    dtypes = {a.dtype for a in arguments if isinstance(a, torch.Tensor)} & {*real}
    assert len(dtypes) <= 1, "a kernel has one type of reals"
    return kernels(dtypes.pop() if dtypes else torch.float32)


def call(name: str, *arguments: Any) -> None:
    """Calls a kernel with tensors and descriptors as they are."""
    _library(arguments).call(name, *map(_plain, arguments))


def code_of(name: str, *arguments: Any) -> int:
    """The code that a kernel returns."""
    function = getattr(_library(arguments).library, name)
    return int(function(*map(_plain, arguments)))


def near(ours: torch.Tensor, reference: torch.Tensor, slack: float = 1.0) -> None:
    """Equal within the tolerance of `ours`' dtype, relative to the largest value."""
    assert ours.shape == reference.shape
    if not reference.numel():
        return
    scale = max(1.0, float(reference.detach().abs().max()))
    worst = float((ours.double() - reference.detach().double()).abs().max())
    assert worst <= TOLERANCE[ours.dtype] * scale * slack
