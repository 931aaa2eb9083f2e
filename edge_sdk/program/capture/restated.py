"""Losses of torch's that ask for values, restated without the question."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutChecks", "unchecked_distributions"]

_REDUCED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda terms: terms,
}


def _gaussian(
    input: torch.Tensor,  # noqa: A002 - torch's name
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,  # noqa: FBT001, FBT002 - as torch has it
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """The negative log-likelihood of a normal distribution.

    torch refuses a variance below zero; here it counts as `eps`, like one of zero. The
    gradient is that of the variance itself.
    """
    spread = torch.as_tensor(var)
    if spread.shape == input.shape[:-1] and spread.dim():
        spread = spread.unsqueeze(-1)
    spread = spread + (spread.clamp(min=eps) - spread).detach()
    terms = 0.5 * (torch.log(spread) + (input - target) ** 2 / spread)
    return _REDUCED[reduction](terms + 0.5 * math.log(2 * math.pi) if full else terms)


_RESTATED = {F.gaussian_nll_loss: _gaussian}


class WithoutChecks(TorchFunctionMode):
    """Calls within it that check values are made without the check."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's result, or that of its restatement."""
        del types
        return _RESTATED.get(func, func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Distributions are made without a look at the values of their arguments."""
    before: bool = Distribution._validate_args  # noqa: SLF001 - it has no other getter
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
