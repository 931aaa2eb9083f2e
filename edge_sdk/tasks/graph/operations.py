"""Effect of a traced model's operations on the units of the value they take."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import fx, nn

__all__ = [
    "CONVS",
    "ELEMENTWISE",
    "ELEMENTWISE_NAMES",
    "JOINS",
    "NORMS",
    "POOLS",
    "SPATIAL",
    "flattens_all",
    "means_over_space",
    "name_of",
]

CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# One value per unit in their parameters and statistics.
NORMS: Final = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d,
    nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
ELEMENTWISE: Final = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.Dropout3d, nn.AlphaDropout, nn.Identity,
)  # fmt: skip
POOLS: Final = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ZeroPad3d, nn.Upsample,
)  # fmt: skip
ELEMENTWISE_NAMES: Final = frozenset(
    {
        "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu",
        "mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus",
        "dropout", "dropout1d", "dropout2d", "dropout3d", "clamp", "neg", "abs",
        "contiguous", "clone", "float", "detach",
    }
)  # fmt: skip
JOINS: Final = frozenset(
    {"add", "iadd", "sub", "isub", "mul", "imul", "truediv", "add_", "sub_", "mul_"}
)
SPATIAL: Final = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")


def name_of(target: Callable[..., Any] | str) -> str:
    """The name of a function of the graph; empty for one that is not torch's own."""
    if target in {F.max_pool1d, F.max_pool2d, F.max_pool3d}:
        return "max_pool"  # torch hides their names behind a dispatcher
    module = getattr(target, "__module__", None) or ""
    known = module.startswith(("torch", "_operator")) or target is operator.add
    return str(getattr(target, "__name__", "")) if known or not module else ""


def means_over_space(node: fx.Node, space: int) -> bool:
    """True if a mean is over all axes behind the channels, and keeps none of them."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    given = list(dims) if isinstance(dims, (tuple, list)) else [dims]
    axes = [a for a in given if isinstance(a, int)]
    if keep is not False or space < 1 or len(axes) != len(given):
        return False
    return sorted(a % (space + 2) for a in axes) == list(range(2, space + 2))


def flattens_all(node: fx.Node, name: str) -> bool:
    """True if everything behind the batch becomes one axis."""
    if name not in {"flatten", "view", "reshape"}:
        return False
    rest = [*node.args[1:], *node.kwargs.values()]
    if name == "flatten":
        return rest in ([1], [1, -1])
    shape = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
    return len(shape) == 2 and (type(shape[1]) is int or _is_product(shape[1]))


def _is_product(value: object) -> bool:
    return False if not isinstance(value, fx.Node) else value.target is operator.mul
