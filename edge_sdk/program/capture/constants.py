"""`Constants`: what a model computes from its code alone is computed once, here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Constant

__all__ = ["Constants"]

# Their result has the shape of what they are given, and nothing else of it.
_SHAPED = (
    *("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"),
    *("empty_like", "new_empty"),
)
_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
# What stands for minus infinity: a sum with it stays finite, its exponential is zero.
_LARGE = 1e30


class Constants:
    """Values of calls, and which of them the program holds.

    Args:
        first: Number of the first constant: behind the program's parameters.

    Attributes:
        values: Call -> its value.
        held: The program's constants; several graphs may share them.
    """

    def __init__(self, first: int, held: list[Constant]) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.held = held
        self._first = first
        self._numbers: dict[fx.Node, int] = {}

    def __contains__(self, node: object) -> bool:
        return node in self.values

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The value of a call that gives a tensor."""
        found: torch.Tensor = self.values[node]
        return found

    def add(self, node: fx.Node, value: torch.Tensor) -> None:
        """Takes a tensor that the exported model holds beside its state."""
        self.values[node] = value.detach().clone()

    def change(self, node: fx.Node, value: torch.Tensor) -> None:
        """Takes another value for a call, as one part of a complex one."""
        self.values[node] = value
        self._numbers.pop(node, None)

    def number(self, node: fx.Node) -> int:
        """The parameter number by which operations call it."""
        if node not in self._numbers:
            self._numbers[node] = self.hold(self.tensor(node))
        return self._numbers[node]

    def hold(self, value: torch.Tensor) -> int:
        """The parameter number of a tensor that the program holds from now on."""
        if value.is_complex():
            raise EngineError(
                "a constant of complex numbers has a place in sums, products and moves "
                "of complex numbers alone",
                remedy="Take torch.view_as_real of it, or its abs, real or imag.",
            )
        array = value.detach().to(torch.float32).numpy()
        array = np.nan_to_num(array, nan=np.nan, posinf=_LARGE, neginf=-_LARGE)
        own = Constant(tuple(value.shape), array.astype("<f4").tobytes())
        if own not in self.held:
            self.held.append(own)
        return self._first + self.held.index(own)

    def evaluated(
        self, node: fx.Node, name: str, told: Callable[[fx.Node], fx.Node]
    ) -> bool:
        """Computes a call if it depends on constants alone; whether it does.

        Args:
            node: The call.
            name: Of its operator.
            told: What a node of the call's graph stands for.
        """
        target: Any = node.target
        known = all(told(n) in self.values for n in node.all_input_nodes)
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            return False
        if not known and name not in _SHAPED:
            return False

        def value(own: fx.Node) -> Any:
            return self.values[told(own)] if known else _shell(own)

        arguments = fx.node.map_arg(node.args, value)
        named = fx.node.map_arg(node.kwargs, value)
        with torch.no_grad():
            found = target(*arguments, **named)
        if name in _EMPTY:  # what is there by chance would be part of the program
            found = torch.zeros_like(found)
        self.values[node] = found
        return True


def _shell(node: fx.Node) -> torch.Tensor:
    value = node.meta["val"]
    return torch.empty(tuple(value.shape), dtype=value.dtype)
