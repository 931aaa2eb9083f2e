"""Calls of torch's that ask for values, restated without the question."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from edge_sdk.program.capture.restated.losses import RESTATED
from edge_sdk.program.capture.restated.packed import PACKED, PackedRows, keeps_order
from edge_sdk.program.capture.restated.selected import MaskedSelection
from edge_sdk.program.capture.restated.values import VALUES

__all__ = ["WithoutChecks", "unchecked_distributions"]

_SELECTS = (torch.Tensor.__getitem__, torch.masked_select, torch.Tensor.masked_select)


class WithoutChecks(TorchFunctionMode):
    """Calls within it that ask for values are made without the question.

    Args:
        batch: Length of the batch: what a mask over it selects has a length that
            depends on values.
    """

    def __init__(self, batch: int = 0) -> None:
        super().__init__()
        self.batch = batch

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's result, or that of its restatement."""
        del types
        if func in _SELECTS and self._is_mask(args[-1]) and len(args) == 2:
            return MaskedSelection.of(args[0], args[1])
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        packs = name == "_pack_padded_sequence" or keeps_order(func)
        if name in PACKED and (packs or (args and isinstance(args[0], PackedRows))):
            return PACKED[name](*args, **named)
        if (restated := VALUES.get(func)) is not None:
            return restated(*args, **named)
        return RESTATED.get(func, func)(*args, **named)

    def _is_mask(self, index: Any) -> bool:
        kind = getattr(index, "dtype", None)
        return kind == torch.bool and index.dim() > 0 and len(index) == self.batch


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Distributions are made without a look at the values of their arguments."""
    before: bool = Distribution._validate_args  # noqa: SLF001 - it has no other getter
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
