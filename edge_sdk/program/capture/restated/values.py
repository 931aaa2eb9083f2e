"""Functions of values that programs compute by simpler ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812

__all__ = ["VALUES", "UnrestatedError"]

_MOST_FACTORS = 64  # of a running product: each is an operation of its own
_MODES: Final = ("zeros", "border")
_REDUCTIONS: Final = ("none", "mean", "sum")


class UnrestatedError(TypeError):
    """A form of a function that programs have not; says which, and what they have."""


def _numbers(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values with 0 in place of NaN, and which of them are numbers."""
    known = torch.logical_not(torch.isnan(x))
    return torch.where(known, x, torch.zeros_like(x)), known


def _nanmean(
    x: torch.Tensor,
    dim: Any = None,
    keepdim: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The mean of what are numbers."""
    numbers, known = _numbers(x.to(dtype or x.dtype))
    count = known.to(x.dtype)
    if dim is None:
        return numbers.sum() / count.sum()
    return numbers.sum(dim, keepdim) / count.sum(dim, keepdim)


def _nansum(
    x: torch.Tensor,
    dim: Any = None,
    keepdim: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The sum of what are numbers."""
    numbers, _ = _numbers(x.to(dtype or x.dtype))
    return numbers.sum() if dim is None else numbers.sum(dim, keepdim)


def _cumprod(
    x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Each value times all before it, factor by factor; zeros have torch's gradient."""
    if x.shape[dim] > _MOST_FACTORS:
        raise UnrestatedError(
            f"programs have no running product of {x.shape[dim]} factors, "
            f"{_MOST_FACTORS} at most: of positive ones take exp(cumsum(log(x)))"
        )
    first, *rest = x.to(dtype or x.dtype).unbind(dim)
    found = [first]
    for factor in rest:
        found.append(found[-1] * factor)
    return torch.stack(found, dim)


def _bucketize(
    x: torch.Tensor | float,
    edges: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
) -> torch.Tensor:
    """Number of edges below each value, or with `right` of those not above it."""
    del out_int32
    if edges.dim() != 1:
        raise UnrestatedError("programs sort into one row of edges for all values")
    values = torch.as_tensor(x).unsqueeze(-1)
    passed = values >= edges if right else values > edges
    return passed.to(torch.float32).sum(-1).long()


def _searchsorted(
    edges: torch.Tensor, x: torch.Tensor | float, *, right: bool = False,
    side: str | None = None, out_int32: bool = False, sorter: Any = None,
) -> torch.Tensor:  # fmt: skip
    if sorter is not None:
        raise UnrestatedError("programs take edges that are sorted, without a sorter")
    return _bucketize(x, edges, out_int32=out_int32, right=right or side == "right")


def _poisson(
    input: torch.Tensor,  # noqa: A002 - torch's name
    target: torch.Tensor,
    log_input: bool = True,  # noqa: FBT001, FBT002 - as torch has it
    full: bool = False,  # noqa: FBT001, FBT002
    size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """The negative log-likelihood of counts; `full` adds what depends on them alone."""
    if size_average is not None or reduce is not None:
        raise UnrestatedError("say reduction instead of size_average or reduce")
    if reduction not in _REDUCTIONS:
        raise UnrestatedError(f"no reduction is named {reduction!r}")
    if log_input:
        terms = torch.exp(input) - target * input
    else:
        terms = input - target * torch.log(input + eps)
    if full:
        some = torch.where(target > 1, target, torch.ones_like(target))
        stirling = target * torch.log(some) - target + 0.5 * torch.log(math.tau * some)
        terms = terms + torch.where(target > 1, stirling, torch.zeros_like(stirling))
    if reduction == "none":
        return terms
    return terms.mean() if reduction == "mean" else terms.sum()


def _grid_sample(
    input: torch.Tensor,  # noqa: A002 - torch's name
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,  # noqa: FBT001 - as torch has it
) -> torch.Tensor:
    """Pixels at computed places, as sums over rows and columns.

    Each pixel counts by one less its distance in each direction, if that is positive.
    """
    if mode != "bilinear" or padding_mode not in _MODES or input.dim() != 4:
        raise UnrestatedError(
            f"programs have grid_sample of images, bilinear with padding by "
            f"{' or '.join(_MODES)}, not {mode} with {padding_mode}"
        )
    batch, channels, height, width = input.shape
    points = grid.shape[1] * grid.shape[2]
    weights = []
    for at, size in ((0, width), (1, height)):
        place = grid[..., at].reshape(batch, points, 1)
        place = (
            (place + 1) * ((size - 1) / 2)
            if align_corners
            else (place + 1) * (size / 2) - 0.5
        )
        if padding_mode == "border":
            place = place.clamp(0, size - 1)
        apart = (place - torch.arange(float(size))).abs()
        weights.append(torch.relu(1 - apart))
    columns, rows = weights
    flat = input.reshape(batch, channels * height, width)
    seen = (flat @ columns.transpose(1, 2)).reshape(batch, channels, height, points)
    found = (seen * rows.transpose(1, 2).unsqueeze(1)).sum(2)
    return found.reshape(batch, channels, grid.shape[1], grid.shape[2])


def _affine_grid(
    theta: torch.Tensor,
    size: Any,
    align_corners: bool | None = None,  # noqa: FBT001 - as torch has it
) -> torch.Tensor:
    """Places (batch, height, width, 2) of a transformed image."""
    if len(size) != 4:
        raise UnrestatedError("programs have affine_grid of images alone")
    axes = []
    for n in (int(size[3]), int(size[2])):
        line = torch.linspace(-1.0, 1.0, n) if n > 1 else torch.zeros(1)
        axes.append(line if align_corners else line * ((n - 1) / n))
    x, y = (t.flatten() for t in torch.meshgrid(*axes, indexing="xy"))
    base = torch.stack([x, y, torch.ones_like(x)], 1)
    found = (theta @ base.t()).transpose(1, 2)
    return found.reshape(-1, int(size[2]), int(size[3]), 2)


def _lgamma(x: torch.Tensor) -> torch.Tensor:
    """The logarithm of the gamma function above zero: Stirling's, six further on."""
    far, passed = x + 6, x
    for step in range(1, 6):
        passed = passed * (x + step)
    share = 1 / (far * far)
    tail = (1 / 12 - share * (1 / 360 - share / 1260)) / far
    whole = (far - 0.5) * torch.log(far) - far + 0.5 * math.log(math.tau) + tail
    return whole - torch.log(passed)


def _digamma(x: torch.Tensor) -> torch.Tensor:
    """The derivative of `_lgamma`."""
    far, passed = x + 6, 1 / x
    for step in range(1, 6):
        passed = passed + 1 / (x + step)
    share = 1 / (far * far)
    tail = share * (1 / 12 - share * (1 / 120 - share / 252))
    return torch.log(far) - 0.5 / far - tail - passed


def _xlogy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product x log y, and zero where x is."""
    return x * torch.log(torch.where(x == 0, torch.ones_like(y), y))


VALUES: Final[dict[Any, Callable[..., Any]]] = {
    **dict.fromkeys((torch.nanmean, torch.Tensor.nanmean), _nanmean),
    **dict.fromkeys((torch.nansum, torch.Tensor.nansum), _nansum),
    **dict.fromkeys((torch.cumprod, torch.Tensor.cumprod), _cumprod),
    **dict.fromkeys(
        (torch.lgamma, torch.Tensor.lgamma, torch.special.gammaln), _lgamma
    ),
    **dict.fromkeys(
        (torch.digamma, torch.Tensor.digamma, torch.special.digamma), _digamma
    ),
    **dict.fromkeys((torch.xlogy, torch.Tensor.xlogy, torch.special.xlogy), _xlogy),
    torch.bucketize: _bucketize,
    torch.searchsorted: _searchsorted,
    F.poisson_nll_loss: _poisson,
    F.grid_sample: _grid_sample,
    F.affine_grid: _affine_grid,
}
