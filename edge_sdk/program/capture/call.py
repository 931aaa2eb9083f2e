"""`Node`: one call of torch's as the rows of the capture table see it."""

from __future__ import annotations

import functools
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

__all__ = ["Node", "begins_at", "line_of", "origin"]

# Of a stack trace the last line that is not torch's own says where the user's call is.
_TORCH, _HERE = f"{torch.__path__[0]}/", str(Path(__file__).parent)
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(eq=False)
class Node:
    """One call of torch's, with its arguments by name.

    Attributes:
        node: The call in the exported graph.
        arguments: Name in torch's schema -> value, defaults included.
        shape: Of the result, with the batch axis; () where it has no one shape.
    """

    node: fx.Node
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every overload has."""
        found = self.arguments.get(name)
        return default if found is None else found

    @property
    def target(self) -> str:
        """The overload, such as ``aten.conv1d.default``."""
        return str(self.node.target)


def origin(node: fx.Node) -> tuple[str, str]:
    """Layer and source line of a call."""
    stack = [*(node.meta.get("nn_module_stack") or {}).values()]
    layer = (str(stack[-1][0]) or "loss") if stack else ""
    found = _LINE.findall(node.meta.get("stack_trace") or "")
    found = [(f, n) for f, n in found if not f.startswith(_HERE)]
    own = [(f, n) for f, n in found if not f.startswith(_TORCH)] or found
    return layer, f"{own[-1][0].rpartition('/')[2]}:{own[-1][1]}" if own else ""


def begins_at(function: Any) -> str:
    """File and first line of a function's code; "" for torch's own and for others."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, torch.nn.Module):
        function = type(function).forward
    code = getattr(function, "__code__", None)
    if code is None or code.co_filename.startswith(_TORCH):
        return ""
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def line_of(error: BaseException) -> str:
    """File and line of the model's code in which an export failed; "" if none is."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((_TORCH, _HERE, "<"))]
    own = [f for f in own if "/torch/" not in f.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
