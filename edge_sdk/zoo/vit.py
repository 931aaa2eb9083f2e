"""A small vision transformer for 32x32 images."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

__all__ = ["VitTiny"]


class VitTiny(nn.Module):
    """ViT-Tiny's width and heads (arXiv:2012.12877) in six blocks: 2,693,194 weights.

    Input (N, 3, 32, 32) float32, output (N, 10) logits. Patches of 4 make 64 tokens of
    192 features, three heads; layer norm comes before attention and before the two
    linear layers, and the head reads the mean of the tokens.
    """

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.empty(1, 64, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits; see the class for shapes."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self._attention(self.norm1(tokens))
        hidden = F.gelu(self.fc1(self.norm2(tokens)))
        out: torch.Tensor = tokens + self.fc2(hidden)
        return out

    def _attention(self, tokens: torch.Tensor) -> torch.Tensor:
        n, count, width = tokens.shape
        parts = self.qkv(tokens).reshape(n, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(n, count, width))
        return out
