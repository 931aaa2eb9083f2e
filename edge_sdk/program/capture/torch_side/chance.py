"""torch without chance, for a comparison: nothing is dropped, no number is random."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edge_sdk.program.capture.rows.drawn.gamma import middle_of_gamma
from edge_sdk.program.capture.rows.drawn.random import MIDDLE_OF_NORMAL

__all__ = ["Middles", "NoDropout"]

_HALF = 0.5
_RANDOM = frozenset(
    {
        *("bernoulli", "exponential", "normal", "uniform"),
        *("rand", "rand_like", "randn", "randn_like", "cauchy", "log_normal"),
        *("randint", "randint_like", "random", "_standard_gamma", "_sample_dirichlet"),
        "randperm",
    }
)
_DROPOUTS = frozenset(
    {
        *("dropout", "dropout_", "feature_dropout"),
        *("dropout1d", "dropout2d", "dropout3d"),
    }
)
_DROPOUT_P = 4  # its place among attention's arguments


class NoDropout(TorchFunctionMode):
    """Calls of dropout and of attention within it keep every value."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's result, its probability of dropping replaced by zero."""
        del types
        name, named = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in _DROPOUTS:
            named = {k: v for k, v in named.items() if k != "p"}
            return func(args[0], 0.0, *args[2:], **named)
        if name == "scaled_dot_product_attention" and len(args) > _DROPOUT_P:
            args = (*args[:_DROPOUT_P], 0.0, *args[_DROPOUT_P + 1 :])
        elif name == "scaled_dot_product_attention":
            named["dropout_p"] = 0.0
        return func(*args, **named)


class Middles(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Each random number is the one of even draws of 1/2."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The call's result, its random numbers replaced."""
        del types
        found, name = func(*args, **(kwargs or {})), func._opname.rstrip("_")  # noqa: SLF001
        if name not in _RANDOM:
            return found
        names = (argument.name for argument in func._schema.arguments)  # noqa: SLF001
        named = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        return found.copy_(torch.as_tensor(_middle(name, named)))


def _middle(name: str, named: dict[str, Any]) -> Any:
    """The numbers that even draws of 1/2 give for a call by name."""
    low = named.get("low", named.get("from", 0))
    high = named.get("high", named.get("to", 1.0))
    mean, spread = named.get("mean", 0), named.get("std", 1.0)
    found: Any
    match name:
        case "bernoulli":
            found = torch.as_tensor(named.get("p", named["self"])) > _HALF
        case "rand" | "rand_like" | "uniform":
            found = (low + high) / 2
        case "randint" | "randint_like" | "random":
            found = low + (high - low) // 2
        case "randperm":
            found = torch.arange(named["n"]).flip(0)
        case "exponential":
            found = math.log(2) / named.get("lambd", 1.0)
        case "cauchy":
            found = named.get("median", 0.0)
        case "log_normal":
            mean, spread = named.get("mean", 1.0), named.get("std", 2.0)
            found = math.exp(spread * MIDDLE_OF_NORMAL + mean)
        case "_standard_gamma":
            found = middle_of_gamma(named["self"]).exp()
        case "_sample_dirichlet":
            found = middle_of_gamma(named["self"]).softmax(-1)
        case _:
            found = spread * MIDDLE_OF_NORMAL + mean
    return found
