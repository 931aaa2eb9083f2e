"""Modules of several inputs, and inputs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

SHAPES = ((3, 8, 8), (5,), (2,))


class Three(nn.Module):
    """An image, token ids and numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.words = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(400, 6)
        self.out = nn.Linear(16, 4)
        prune.l1_unstructured(self.out, "weight", amount=0.5)

    def forward(
        self, image: torch.Tensor, ids: torch.Tensor, extra: torch.Tensor
    ) -> torch.Tensor:
        seen = self.conv(image).relu().mean((2, 3))
        found: torch.Tensor = self.out(
            torch.cat([seen, self.words(ids).mean(1), extra], 1)
        )
        return found


def inputs(count: int = 40) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(4)
    return {
        "image": random.uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32),
        "ids": random.integers(0, 400, (count, 5)),
        "extra": random.uniform(-1, 1, (count, 2)).astype(np.float32),
    }


class Rows(nn.Module):
    """What the files in `before` were made of, when all inputs were one row."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(5, 2), nn.Linear(2 + 3, 4)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.arange(p.numel()).reshape(p.shape) / 8 - 1)
            self.out.weight[::2, ::2] = 0

    def forward(self, ids: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.cat([self.words(ids).mean(1), extra], 1))
        return found
