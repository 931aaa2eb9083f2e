"""Batch and group normalisation, alone and fused, at any batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from edge_sdk.kernels.structure import Structure
from tests.kernels.blocked_layers import (
    Conv,
    Norm,
    NormAct,
    NormConv,
    to_blocked,
    unblocked,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}


def near(
    ours: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype, slack: float = 1.0
) -> None:
    scale = max(1.0, float(reference.abs().max()))
    worst = float((ours.double() - reference.double()).abs().max())
    assert worst <= TOLERANCE[dtype] * scale * slack


def layers(
    kind: str, dtype: torch.dtype, seed: int, **more: Any
) -> tuple[nn.Module, Norm, torch.Tensor, torch.Tensor]:
    """torch's layer, ours with a copy of its statistics, and copies of its weights."""
    torch.manual_seed(seed)
    layer: nn.BatchNorm2d | nn.GroupNorm
    layer = nn.BatchNorm2d(6) if kind == "batch" else nn.GroupNorm(3, 6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer = layer.to(dtype)
    running = [
        b.clone() for n, b in layer.named_buffers() if n.startswith("running")
    ] or [None, None]
    own = Norm(groups=3 * (kind == "group"), running=tuple(running), **more)
    copies = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    return layer, own, *copies


def garbage_in_padding(x: torch.Tensor, samples: int) -> torch.Tensor:
    """Blocked x whose padded lanes hold large values: nothing may count them."""
    lanes = x.shape[-1]
    valid = samples - (x.shape[0] - 1) * lanes
    x[-1, ..., valid:] = 1e3
    return x


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    samples=st.sampled_from([2, 3, 4, 8, 15, 16, 17, 40]),
    size=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    lanes=st.sampled_from([4, 8, 16]),
    relu=st.booleans(),
    residual=st.booleans(),
    shift=st.sampled_from([0.0, 30.0]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_norm_residual_and_relu_equal_torch(
    dtype: torch.dtype, kind: str, training: bool, samples: int, size: tuple[int, int],
    lanes: int, relu: bool, residual: bool, shift: float, seed: int,
) -> None:  # fmt: skip
    # The gradient of a norm over two values is all rounding in float32.
    assume(dtype == torch.float64 or size[0] * size[1] >= 12)
    layer, own, gamma, beta = layers(
        kind, dtype, seed, samples=samples, training=training, activation=int(relu)
    )
    layer.train(training)
    gen = torch.Generator().manual_seed(seed)
    shape = (samples, 6, *size)
    x = (torch.randn(shape, generator=gen, dtype=torch.float64) + shift).to(dtype)
    r = torch.randn(shape, generator=gen, dtype=torch.float64).to(dtype)
    xr, rr = x.clone().requires_grad_(), r.clone().requires_grad_()
    y = layer(xr) + rr if residual else layer(xr)
    y = F.relu(y) if relu else y
    g = torch.randn(y.shape, generator=gen, dtype=torch.float64).to(dtype)
    y.backward(g)
    xb = garbage_in_padding(to_blocked(x, lanes), samples).requires_grad_()
    rb = to_blocked(r, lanes).requires_grad_()
    out = NormAct.apply(xb, gamma, beta, rb if residual else None, own)
    out.backward(to_blocked(g, lanes))
    slack = 1 + shift**2  # how much a mean of `shift` amplifies rounding in a variance
    near(unblocked(out.detach(), samples), y.detach(), dtype, slack)
    if dtype == torch.float64 or not (relu and shift):  # f32 rounding can flip a ReLU
        near(unblocked(xb.grad, samples), xr.grad, dtype, slack)
        near(gamma.grad, layer.weight.grad, dtype, slack)
        near(beta.grad, layer.bias.grad, dtype, slack)
        if residual:
            near(unblocked(rb.grad, samples), rr.grad, dtype, slack)
    if xb.shape[0] * lanes > samples:
        assert not xb.grad[-1, ..., samples - (xb.shape[0] - 1) * lanes :].any()
    if kind == "batch":
        near(own.running[0], layer.running_mean, dtype, slack)
        near(own.running[1], layer.running_var, dtype, slack)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    samples=st.sampled_from([2, 5, 16, 21]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2, 3]),
    lanes=st.sampled_from([4, 8, 16]),
    relu=st.booleans(),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("kind", ["batch", "group"])
def test_norm_fused_into_a_conv_equals_torch(
    kind: str, samples: int, kernel: int, stride: int, lanes: int, relu: bool, seed: int
) -> None:
    dtype = torch.float64
    norm, own, gamma, beta = layers(kind, dtype, seed, samples=samples)
    conv = nn.Conv2d(6, 5, kernel, stride, kernel // 2).to(dtype)
    keep = np.random.default_rng(seed).random(tuple(conv.weight.shape)) < 0.4
    with torch.no_grad():
        conv.weight *= torch.from_numpy(keep)
    plan = Conv(
        Structure.of(keep, dtype=dtype), (stride, stride), (kernel // 2,) * 2,
        relu=int(relu),
    )  # fmt: skip
    weight = conv.weight.detach()[torch.from_numpy(keep)].clone().requires_grad_()
    bias = conv.bias.detach().clone().requires_grad_()
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn((samples, 6, 7, 9), generator=gen, dtype=dtype)
    xr = x.clone().requires_grad_()
    hidden = norm(xr)
    y = conv(F.relu(hidden) if relu else hidden)
    g = torch.randn(y.shape, generator=gen, dtype=dtype)
    y.backward(g)
    xb = to_blocked(x, lanes).requires_grad_()
    out = NormConv.apply(xb, gamma, beta, weight, bias, own, plan)
    out.backward(to_blocked(g, lanes))
    near(unblocked(out.detach(), samples), y.detach(), dtype)
    near(unblocked(xb.grad, samples), xr.grad, dtype)
    near(weight.grad, conv.weight.grad[torch.from_numpy(keep)], dtype)
    near(bias.grad, conv.bias.grad, dtype)
    near(gamma.grad, norm.weight.grad, dtype)
    near(beta.grad, norm.bias.grad, dtype)
