"""Small models that together have every operation of a program."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from torch import nn

__all__ = ["SAMPLES", "cases"]

SAMPLES = 5


def cases() -> dict[str, Case]:
    """Small models that together have every operation."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (SAMPLES,))
    image = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, 2, groups=2), nn.GroupNorm(2, 4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    tokens = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))
    thin = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 2, 2, 2), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 3)),
    )
    return {
        "image": Case(image, torch.randn(SAMPLES, 2, 8, 8), labels),
        "thin": Case(thin, torch.randn(SAMPLES, 2, 4, 4), labels),
        "recurrent": Case(_Recurrent(), torch.randint(0, 2, (SAMPLES, 4)), labels),
        "states": Case(_States(), torch.randn(SAMPLES, 3, 4), labels),
        "masked": Case(_Masked(), torch.randint(0, 4, (SAMPLES, 3)), labels, _terms),
        "video": Case(_video(), torch.randn(SAMPLES, 1, 3, 4, 4), labels, _weighted),
        "block": Case(_Block(), torch.randn(SAMPLES, 3, 8), labels),
        "heads": Case(
            _Heads(), torch.randn(SAMPLES, 2, 4), torch.rand(SAMPLES, 3), _two
        ),
        "views": Case(
            nn.Linear(4, 6), torch.randn(SAMPLES, 4), torch.randn(SAMPLES, 6), _views
        ),
        "drawn": Case(nn.Linear(4, 6), torch.randn(SAMPLES, 4), labels, _drawn),
        "mixed": Case(_Mixed(), torch.randn(SAMPLES, 12), labels),
        "tokens": Case(
            tokens, torch.randn(SAMPLES, 3, 4), torch.randn(SAMPLES, 4), F.mse_loss
        ),
    }


class _Recurrent(nn.Module):
    """Tokens through a GRU and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.embedding(x))
        y, _ = self.lstm(y)
        found: torch.Tensor = self.head(y[:, -1])
        return found


class _States(nn.Module):
    """An LSTM's last states begin another one; one weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.LSTM(4, 4, batch_first=True) for _ in range(2))
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, states = self.one(F.linear(self.head(x), self.head.weight.t()))
        found: torch.Tensor = self.head(self.two(y, states)[0][:, -1])
        return found


class _Block(nn.Module):
    """A transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.reshape(len(x), 3, 2, 4).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.gelu(self.out(y))
        found: torch.Tensor = self.head(x.mean(1))
        return found


class _Masked(nn.Module):
    """Attention that sees no padding, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embedding(x)
        scores = y @ y.transpose(1, 2)
        scores = scores.masked_fill((x == 0).unsqueeze(1), -9.0)
        y = F.elu(scores.softmax(-1) @ y) + F.mish(F.softplus(y))
        y = y / (y.norm(dim=-1, keepdim=True) + 1) + y.exp().clamp(max=3).log1p().abs()
        found: torch.Tensor = self.head(y.amax(1)) ** 1.0
        return found


class _Heads(nn.Module):
    """Two predictions; a computed weight, rounding, waves, and categories as floats."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.conv, self.kind = norm(nn.Conv1d(2, 4, 2)), nn.Embedding(3, 4)
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x).mean(-1) + self.kind(x[:, 0, 0].abs().clamp(max=2).long())
        y = torch.sin(y) + torch.erf(y) * torch.cos(y)
        y = y + (y.round() - y.floor()).detach()
        return self.one(y), self.two(y)


def _two(out: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    kind = (2 * y[:, 0]).abs().clamp(max=2).long().unsqueeze(1)
    return 1 - out[0].softmax(1).gather(1, kind).mean() + F.mse_loss(out[1], y[:, 1:])


def _views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Each half's partner among the batch, and a root of the mean square."""
    z, own = torch.cat([x[:, :3], x[:, 3:]]), torch.arange(2 * len(x))
    alike = (z @ z.t()).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    apart = F.mse_loss(torch.atan(x), y).sqrt()
    return F.cross_entropy(alike, own.roll(len(x))) + apart


def _drawn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Random numbers, each kind."""
    z = x[:, :3] + torch.randn_like(x[:, 3:]) * torch.exp(x[:, 3:])
    return F.cross_entropy(z + torch.empty_like(z).exponential_().log(), y)


class _Mixed(nn.Module):
    """Windows there and back, draws of all samples, a batch in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(4)
        y = torch.stft(self.body(x), 4, 2, window=window, return_complex=True)
        y = torch.istft(y * (1 + torch.rand(3, 1)), 4, 2, window=window)
        y = y[:, :12] + F.dropout(self.head.weight[0], 0.5, self.training)
        found: torch.Tensor = self.head(y)
        return found + found[torch.randperm(len(x))] if self.training else found


def _video() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.AvgPool3d(2, 1), nn.Flatten()),
        nn.Linear(8, 3),
    )


def _weighted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y, weight=torch.tensor([1.0, 2.0, 3.0]))


def _terms(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y) + 0.1 * (x**2).mean()
