"""Small models as people write them: a function of layers, and a batch for it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, mask_of, three_steps
from torch import nn

from edge_sdk.program.capture import capture
from edge_sdk.program.capture.compare import compare
from edge_sdk.sparse import Mask
from edge_sdk.tasks.layers import layers_of

__all__ = ["N", "Plain", "classes", "copies", "error_of", "error_on_more", "tokens"]

N = 7


class Plain(nn.Module):
    """Layers, and a forward pass as a function of them."""

    def __init__(self, run: Callable[[Any, torch.Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def classes(model: nn.Module, *shape: int, count: int = 4) -> Case:
    return Case(model, torch.randn(N, *shape), torch.randint(0, count, (N,)))


def copies(model: nn.Module, *shape: int, loss: Any = F.mse_loss) -> Case:
    x = torch.randn(N, *shape)
    return Case(model, x, x.clone(), loss)


def tokens(model: nn.Module, length: int, words: int, count: int = 4) -> Case:
    inputs = torch.randint(0, words, (N, length))
    return Case(model, inputs, torch.randint(0, count, (N,)))


def error_of(make: Callable[[], Case], dense: Collection[str] = ()) -> float:
    """The error of three steps under a mask of all weights that a mask may act on."""
    torch.manual_seed(11)
    case = make()
    names = {layer.name for layer in layers_of(case.model, frozenset(dense))}
    patterns = mask_of(case.model, 0.5)
    mask = Mask({name: patterns[name] for name in patterns if name in names})
    return three_steps(case, mask, "momentum")


def error_on_more(make: Callable[[], Case]) -> float:
    """The error of a program on all examples, captured on the first three."""
    torch.manual_seed(3)
    case = make()
    program = capture(case.model, case.loss, case.inputs[:3], case.targets[:3])
    return compare(program, case.model, case.loss, case.inputs, case.targets)
