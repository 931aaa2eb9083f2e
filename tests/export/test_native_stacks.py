"""Branches stacked in front of the batch, and what takes them together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import export
from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda t: t.sum(0),
    "mean": lambda t: t.mean(0),
    "largest": lambda t: t.amax(0),
    "smallest": lambda t: t.min(0).values,
    "place of the largest": lambda t: t.argmax(0).float(),
    "product": lambda t: t.prod(0),
    "deviation": lambda t: t.std(0),
    "norm": lambda t: t.norm(dim=0),
    "log of a sum": lambda t: t.logsumexp(0),
    "weighted": lambda t: (t.softmax(0) * t).sum(0),
    "two axes": lambda t: t.sum((0, 2)),
    "median": lambda t: t.median(0).values,
    "the best two": lambda t: t.topk(2, 0).values.sum(0),
    "negative axis": lambda t: t.mean(-t.ndim),
}


class Branches(nn.Module):
    """Three layers beside each other, and what is made of them."""

    def __init__(
        self, together: dict[str, Callable[[Tensor], Tensor]], *, images: bool
    ) -> None:
        super().__init__()
        layer = (lambda: nn.Conv2d(3, 4, 3)) if images else (lambda: nn.Linear(8, 6))
        self.branches = nn.ModuleList(layer() for _ in range(3))
        self.together = together

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stack = torch.stack([torch.tanh(branch(x)) for branch in self.branches])
        return {name: made(stack) for name, made in self.together.items()}


@pytest.mark.parametrize("images", [False, True])
def test_branches_taken_together_equal_torchs(images: bool) -> None:
    torch.manual_seed(1)
    shape = (3, 7, 6) if images else (8,)
    model = Branches(TOGETHER, images=images).eval()
    found = export.build(model, format="native", input_shape=shape)
    parity = found.findings.parity
    assert parity is not None
    assert parity.max_relative <= 1e-5


@pytest.mark.parametrize(
    "mixed",
    [
        lambda t: t.reshape(-1, 6).mean(0, keepdim=True).expand(t.shape[1], 6),
        lambda t: t.reshape(3, -1).sum(0).view(-1, 6),
        lambda t: t.reshape(-1, 6).topk(2, 0).values.sum(0).expand(t.shape[1], 6),
    ],
)
def test_what_takes_examples_together_is_refused(
    mixed: Callable[[Tensor], Tensor],
) -> None:
    model = Branches({"mixed": mixed}, images=False)
    with pytest.raises(ExportError):
        export.build(model, format="native", input_shape=(8,))
