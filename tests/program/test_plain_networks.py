"""Image and mixed models as people write them: each trains as torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from plain_models import N, Plain, classes, copies, error_of
from torch import nn

from edge_sdk.kernels.library import unavailable_reason

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")


def squeeze_excite() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(m.conv(x))
        s = torch.sigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))))
        return m.head((x * s).mean(dim=[2, 3]))

    model = Plain(
        run,
        conv=nn.Conv2d(3, 8, 3, padding=1),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
        head=nn.Linear(8, 4),
    )
    return classes(model, 3, 6, 6)


def mixer() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.embed(x).flatten(2).transpose(1, 2)
        x = x + m.tokens(m.n1(x).transpose(1, 2)).transpose(1, 2)
        x = x + m.channels(m.n2(x))
        return m.head(x.mean(dim=1))

    model = Plain(
        run,
        embed=nn.Conv2d(3, 8, 4, 4),
        n1=nn.LayerNorm(8),
        n2=nn.LayerNorm(8),
        tokens=nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)),
        channels=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
        head=nn.Linear(8, 4),
    )
    return classes(model, 3, 8, 8)


def video() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(m.conv(x))
        return m.head(F.adaptive_avg_pool3d(x, 1).flatten(1))

    model = Plain(run, conv=nn.Conv3d(2, 5, 3, padding=1), head=nn.Linear(5, 4))
    return classes(model, 2, 4, 5, 5)


def separable() -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10), nn.Hardsigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip
    return classes(model, 3, 8, 8)


def dense_block() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        for norm, conv in ((m.n1, m.c1), (m.n2, m.c2)):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return m.head(F.avg_pool2d(x, x.shape[-1]).flatten(1))

    model = Plain(
        run,
        n1=nn.BatchNorm2d(3),
        n2=nn.BatchNorm2d(7),
        c1=nn.Conv2d(3, 4, 3, padding=1, bias=False),
        c2=nn.Conv2d(7, 4, 3, padding=1, bias=False),
        head=nn.Linear(11, 4),
    )
    return classes(model, 3, 6, 6)


def shuffled() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.first(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.head(torch.amax(F.relu(m.second(x)), (2, 3)))

    model = Plain(
        run,
        first=nn.Conv2d(4, 8, 1, groups=2),
        second=nn.Conv2d(8, 8, 3, padding=1, groups=4),
        head=nn.Linear(8, 4),
    )
    return classes(model, 4, 5, 5)


def subpixel() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.PReLU(), nn.Conv2d(6, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )  # fmt: skip
    x = torch.randn(N, 1, 5, 5)
    return Case(model, x, torch.randn(N, 1, 10, 10), nn.SmoothL1Loss())


def siamese() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        left, right = m.body(x[:, 0]), m.body(x[:, 1])
        return m.head(torch.abs(left - right)).squeeze(-1)

    body = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 6))
    model = Plain(run, body=body, head=nn.Linear(6, 1))
    x, y = torch.randn(N, 2, 8), torch.randint(0, 2, (N,)).float()
    return Case(model, x, y, F.binary_cross_entropy_with_logits)


def multi_task() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(m.body(x))
        return torch.cat([m.kind(h), m.size(h)], 1)

    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        kind, size = out[:, :4], out[:, 4]
        return F.mse_loss(size, target[:, 1]) + 0.3 * F.l1_loss(
            kind.mean(1), target[:, 0]
        )

    model = Plain(
        run, body=nn.Linear(6, 12), kind=nn.Linear(12, 4), size=nn.Linear(12, 1)
    )
    return Case(model, torch.randn(N, 6), torch.randn(N, 2), loss)


def highway() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(m.gate(x))
        return m.head(gate * F.relu(m.body(x)) + (1 - gate) * x)

    model = Plain(run, gate=nn.Linear(6, 6), body=nn.Linear(6, 6), head=nn.Linear(6, 4))
    return classes(model, 6)


def gated() -> Case:
    model = Plain(
        lambda m, x: m.head(F.glu(m.body(x), dim=-1)),
        body=nn.Linear(6, 12),
        head=nn.Linear(6, 4),
    )
    return classes(model, 6)


def swiglu() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        gate, value = m.body(x).chunk(2, dim=-1)
        return m.head(F.silu(gate) * value)

    return classes(Plain(run, body=nn.Linear(6, 16), head=nn.Linear(8, 4)), 6)


def where() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        return m.head(torch.where(h > 0, h, torch.expm1(h)))

    return classes(Plain(run, body=nn.Linear(5, 6), head=nn.Linear(6, 4)), 5)


def bilinear() -> Case:
    model = Plain(
        lambda m, x: m.mix(m.left(x), m.right(x)),
        left=nn.Linear(6, 4),
        right=nn.Linear(6, 3),
        mix=nn.Bilinear(4, 3, 4),
    )
    return classes(model, 6)


def cosine_head() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.normalize(m.body(x), dim=1)
        return m.scale * F.linear(h, F.normalize(m.anchors, dim=1))

    model = Plain(
        run,
        body=nn.Linear(6, 5),
        anchors=nn.Parameter(torch.randn(4, 5)),
        scale=nn.Parameter(torch.tensor(4.0)),
    )
    return classes(model, 6)


def tied_decoder() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        code = torch.tanh(m.encode(x))
        return F.linear(code, m.encode.weight.t(), m.bias)

    model = Plain(run, encode=nn.Linear(8, 5), bias=nn.Parameter(torch.zeros(8)))
    return copies(model, 8)


def waves() -> Case:
    """Functions of each value, and an input that holds categories beside numbers."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        kind = m.kind(x[:, 0].long().clamp(0, 2))
        x = torch.cat([x[:, 1:], torch.sin(x[:, 1:] @ m.table), kind], 1)
        x = m.one(x)
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5)) + torch.cos(3 * x).ceil() / 9
        x = torch.maximum(torch.sinh(x / 3), torch.tan(x / 5))
        return m.two(torch.clamp(x, max=x.mean(1, keepdim=True) + 0.1))

    model = Plain(
        run, one=nn.Linear(13, 8), two=nn.Linear(8, 4), kind=nn.Embedding(3, 3)
    )
    model.register_buffer("table", torch.randn(5, 5))
    x = torch.cat([torch.randint(0, 3, (N, 1)) + 0.4, torch.randn(N, 5)], 1)
    return Case(model, x, torch.randint(0, 4, (N,)))


def straight_through() -> Case:
    """Rounded values whose gradient passes, and statistics that have none."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.one(x)
        with torch.no_grad():
            scale = x.abs().amax(1, keepdim=True) / 7
            offset = x.mean(1, keepdim=True)
        rounded = ((x - offset) / scale).round() * scale + offset
        x = x + (rounded - x).detach()
        return m.two(F.relu(x) * torch.sign(x.sum(1, keepdim=True)).detach())

    return classes(Plain(run, one=nn.Linear(6, 8), two=nn.Linear(8, 4)), 6)


def pairs() -> Case:
    """Two images of one example through the same layers; distances to points."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.body(x.reshape(len(x) * 2, 1, 6, 6)).reshape(len(x), 2, 8)
        return m.head(torch.cdist(x, m.points).flatten(1))

    layers = nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(64, 8), nn.PReLU()
    body = nn.Sequential(*layers)
    model = Plain(
        run, body=body, head=nn.Linear(6, 4), points=nn.Parameter(torch.randn(3, 8))
    )
    return classes(model, 2, 1, 6, 6)


class Standardised(nn.Conv2d):
    """Its weight has mean zero and deviation one, row by row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        w = w / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, w, self.bias)


def computed_weights() -> Case:
    """Weight norm over time, dilated and causal, and standardised weights."""
    norm = nn.utils.parametrizations.weight_norm

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(m.one(F.pad(x, (4, 0))))
        h = F.relu(m.two(h)) + m.short(x)[:, :, ::2]
        return m.head(F.relu(m.image(h.unsqueeze(1))).mean((2, 3)))

    model = Plain(
        run,
        one=norm(nn.Conv1d(4, 6, 3, dilation=2)),
        two=norm(nn.Conv1d(6, 6, 3, 2, 1, groups=2, bias=False)),
        short=nn.Conv1d(4, 6, 1),
        image=Standardised(1, 4, (3, 2), (2, 1), (1, 0)),
        head=norm(nn.Linear(4, 4)),
    )
    return classes(model, 4, 12)


def twins() -> Case:
    """A batch norm that each example passes twice: its statistics move twice."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head(torch.abs(m.body(x[:, 0]) - m.body(x[:, 1])))

    body = nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), nn.Flatten())
    return classes(Plain(run, body=body, head=nn.Linear(36, 4)), 2, 3, 8)


def frames() -> Case:
    """Windows of a recording that overlap, before layers and behind them."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(m.one(x.unfold(1, 8, 4)))
        return m.two(x.unfold(1, 2, 1).flatten(2).mean(1))

    return classes(Plain(run, one=nn.Linear(8, 6), two=nn.Linear(12, 4)), 24)


MODELS = [
    frames,
    twins,
    computed_weights,
    waves,
    straight_through,
    pairs,
    squeeze_excite,
    mixer,
    video,
    separable,
    dense_block,
    shuffled,
    subpixel,
    siamese,
    multi_task,
    highway,
    gated,
    swiglu,
    where,
    bilinear,
    cosine_head,
    tied_decoder,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_it_trains_as_torch_does(make: Callable[[], Case]) -> None:
    assert error_of(make) < 1e-4
