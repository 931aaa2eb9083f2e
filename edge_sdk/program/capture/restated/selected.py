"""`MaskedSelection`: values where a mask is true, whose number depends on values.

A program's shapes do not. So what `tensor[mask]` gives is the whole tensor and the
mask, until a mean or a sum over all that is selected is taken.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812

__all__ = ["MaskedSelection", "UnfollowedSelectionError"]

_IGNORED = -100
_LOSSES: Final = frozenset(
    {
        *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
        *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
    }
)
_OPERATORS_TOO = ("div", "true_divide", "rsub", "logical_not", "bitwise_not")
# Functions of each value, and those of an axis, which must lie within a place.
_EACH: Final = frozenset(
    {
        *("exp", "log", "log1p", "log2", "sqrt", "rsqrt", "square", "abs", "sign"),
        *("sigmoid", "tanh", "relu", "softplus", "logsigmoid", "clamp", "clamp_min"),
        *("clamp_max", "float", "long", "detach", "cosh", "sin", "cos", "neg"),
        *("maximum", "minimum", "where", *_OPERATORS_TOO),
    }
)
_ALONG: Final = frozenset(
    {
        *("sum", "mean", "softmax", "log_softmax", "logsumexp", "norm", "amax"),
        *("amin", "argmax", "squeeze", "unsqueeze", "cosine_similarity"),
    }
)
_OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg"),
    *("gt", "ge", "lt", "le", "eq", "ne", "abs", "invert", "and", "or"),
)


class UnfollowedSelectionError(TypeError):
    """A call whose result is neither selected values nor their mean or sum."""


class MaskedSelection:
    """The values of `tensor[mask]`, as the whole tensor and the mask.

    Attributes:
        whole: The tensor; where the mask is false, ones, which no function minds.
        mask: Truths over its first axes.
    """

    def __init__(self, whole: torch.Tensor, mask: torch.Tensor) -> None:
        self.whole, self.mask = whole, mask

    @classmethod
    def of(cls, tensor: torch.Tensor, mask: torch.Tensor) -> MaskedSelection:
        """The values of a tensor where a mask over its first axes is true."""
        where = _spread(mask, tensor)
        return cls(torch.where(where, tensor, torch.ones_like(tensor)), mask)

    def moved_to_front(self) -> torch.Tensor:
        """A table (batch, longest) with each example's selected values in front."""
        truths = self.mask.to(torch.float32)
        before = torch.tril(truths.new_ones(truths.shape[1], truths.shape[1]), -1)
        places = truths @ before.t()  # of true ones before each
        columns = torch.arange(truths.shape[1])
        goes = (places.unsqueeze(2) == columns).to(torch.float32) * truths.unsqueeze(2)
        found = (self.whole.to(torch.float32).unsqueeze(1) @ goes).squeeze(1)
        return found.to(self.whole.dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function of the whole tensors; of a mean or sum that of what is true."""
        del types
        named = dict(kwargs or {})
        first = next(
            v for v in (*args, *named.values()) if isinstance(v, MaskedSelection)
        )
        name = getattr(func, "__name__", "")
        if func is F.cross_entropy:
            return first.cross_entropy(*args, **named)
        if name in {"mean", "sum"} and len(args) == 1 and not named:
            return first.reduced(name)
        kind = named.pop("reduction", "mean") if func in _LOSSES else "none"
        if func in _LOSSES:
            named["reduction"] = "none"
        plain = [v.whole if isinstance(v, MaskedSelection) else v for v in args]
        named = {
            k: v.whole if isinstance(v, MaskedSelection) else v
            for k, v in named.items()
        }
        found = func(*plain, **named)
        shape = tuple(getattr(found, "shape", ()))
        dims = [v for v in (*args[1:], *named.values()) if type(v) is int]
        if not (func in _LOSSES or first.follows(name.strip("_"), dims)) or (
            shape[: first.mask.dim()] != tuple(first.mask.shape)
        ):
            raise UnfollowedSelectionError(name)
        own = cls(found, first.mask)
        return own if kind == "none" else own.reduced(kind)

    def follows(self, name: str, dims: list[int]) -> bool:
        """Tell whether a function treats each selected place by itself."""
        inner = self.whole.dim() - self.mask.dim()  # axes of a place
        one = len(dims) == 1 and (
            -inner <= dims[0] < 0 or (self.mask.dim() == 1 and 0 < dims[0] <= inner)
        )
        return name in {*_EACH, *_OPERATORS} or (name in _ALONG and one)

    def reduced(self, kind: str) -> torch.Tensor:
        """The sum of what is selected, or its mean."""
        where = _spread(self.mask, self.whole)
        terms = torch.where(where, self.whole, torch.zeros_like(self.whole))
        total = terms.sum()
        if kind == "sum":
            return total
        return total / where.expand(self.whole.shape).to(terms.dtype).sum()

    def cross_entropy(
        self, given: Any, target: Any, *more: Any, **named: Any
    ) -> torch.Tensor:
        """Cross-entropy that ignores what is not selected."""
        both = isinstance(given, MaskedSelection) and isinstance(
            target, MaskedSelection
        )
        if not both or more or named.pop("ignore_index", _IGNORED) != _IGNORED:
            raise UnfollowedSelectionError("cross_entropy")
        ignored = torch.full_like(target.whole, _IGNORED)
        labels = torch.where(target.mask, target.whole, ignored)
        return F.cross_entropy(given.whole.movedim(-1, 1), labels, **named)

    def numel(self) -> torch.Tensor:
        """The number of values that are selected."""
        return _spread(self.mask, self.whole).expand(self.whole.shape).sum()

    def __getattr__(self, name: str) -> Any:
        method = getattr(torch.Tensor, name, None)
        if name.startswith("__") or not callable(method):
            raise UnfollowedSelectionError(name)
        return lambda *args, **named: type(self).__torch_function__(
            method, (), (self, *args), named
        )


def _spread(mask: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A mask with axes of one behind it, as many as the tensor has."""
    return mask.reshape(*mask.shape, *[1] * (tensor.dim() - mask.dim()))


def _operator(name: str) -> Any:
    method = getattr(torch.Tensor, f"__{name}__")

    def run(self: MaskedSelection, *args: Any) -> Any:
        return MaskedSelection.__torch_function__(method, (), (self, *args))

    return run


for _name in _OPERATORS:
    setattr(MaskedSelection, f"__{_name}__", _operator(_name))
