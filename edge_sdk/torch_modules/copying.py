"""`copy_model`: a deep copy of any module, also of one that has been used."""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import nn

__all__ = ["copy_model"]

_Module = TypeVar("_Module", bound=nn.Module)
# What holds no state of a module's own; a function's closure is not copied either.
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def copy_model(model: _Module) -> _Module:
    """A deep copy; tensors with a history become plain ones of the same values.

    torch refuses to copy a tensor that was computed from parameters. Old-style
    ``weight_norm``, ``spectral_norm`` and pruning keep one as the layer's ``weight``,
    made anew before each call; a module may also keep an output as an attribute.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer.last = layer(torch.ones(1, 2))
        >>> copy_model(layer).last.grad_fn is None
        True
    """
    memo: dict[int, object] = {
        id(tensor): tensor.detach().clone()
        for tensor in _tensors(model)
        if not tensor.is_leaf
    }
    return copy.deepcopy(model, memo)


def _tensors(root: object) -> Iterator[torch.Tensor]:
    """Every tensor that an object reaches through attributes and containers."""
    stack, seen = [root], set()
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, _OPAQUE):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset | deque):
            stack.extend(item)
        elif isinstance(item, types.MethodType):
            stack.append(item.__self__)
        else:
            stack.extend(getattr(item, "__dict__", {}).values())
