"""Batch and group normalisation, alone and fused, at any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from edge_sdk.kernels.structure import Structure
from edge_sdk.training.sparse.layout import Batch, to_blocked
from edge_sdk.training.sparse.modules import BlockedNorm, SparseConv2d

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}


def unblocked(x: torch.Tensor, samples: int) -> torch.Tensor:
    y = x.movedim(-1, 1)
    return y.reshape(-1, *y.shape[2:])[:samples]


def near(
    ours: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype, slack: float = 1.0
) -> None:
    scale = max(1.0, float(reference.abs().max()))
    worst = float((ours.double() - reference.double()).abs().max())
    assert worst <= TOLERANCE[dtype] * scale * slack


def layers(
    kind: str, dtype: torch.dtype, seed: int
) -> tuple[nn.Module, BlockedNorm, Batch]:
    torch.manual_seed(seed)
    layer: nn.BatchNorm2d | nn.GroupNorm
    layer = nn.BatchNorm2d(6) if kind == "batch" else nn.GroupNorm(3, 6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer = layer.to(dtype)
    twin = nn.BatchNorm2d(6) if kind == "batch" else nn.GroupNorm(3, 6)
    twin = twin.to(dtype)
    twin.load_state_dict(layer.state_dict())
    batch = Batch()
    return layer, BlockedNorm(twin, batch), batch


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
    layer, own, batch = layers(kind, dtype, seed)
    batch.samples = samples
    own.relu_after = relu
    layer.train(training)
    own.train(training)
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
    out = own(xb, rb if residual else None)
    out.backward(to_blocked(g, lanes))
    slack = 1 + shift**2  # how much a mean of `shift` amplifies rounding in a variance
    near(unblocked(out.detach(), samples), y.detach(), dtype, slack)
    if dtype == torch.float64 or not (relu and shift):  # f32 rounding can flip a ReLU
        near(unblocked(xb.grad, samples), xr.grad, dtype, slack)
        near(own.weight.grad, layer.weight.grad, dtype, slack)
        near(own.bias.grad, layer.bias.grad, dtype, slack)
        if residual:
            near(unblocked(rb.grad, samples), rr.grad, dtype, slack)
    if xb.shape[0] * lanes > samples:
        assert not xb.grad[-1, ..., samples - (xb.shape[0] - 1) * lanes :].any()
    for name, buffer in own.named_buffers():
        near(buffer, layer.get_buffer(name), dtype, slack)


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
    norm, own_norm, batch = layers(kind, dtype, seed)
    batch.samples, batch.saved = samples, dtype
    conv = nn.Conv2d(6, 5, kernel, stride, kernel // 2).to(dtype)
    keep = np.random.default_rng(seed).random(tuple(conv.weight.shape)) < 0.4
    with torch.no_grad():
        conv.weight *= torch.from_numpy(keep)
    own = SparseConv2d(conv, keep, batch)
    own.bias = nn.Parameter(conv.bias.detach().clone())
    own.follow(own_norm, relu=relu)
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn((samples, 6, 7, 9), generator=gen, dtype=dtype)
    xr = x.clone().requires_grad_()
    hidden = norm(xr)
    y = conv(F.relu(hidden) if relu else hidden)
    g = torch.randn(y.shape, generator=gen, dtype=dtype)
    y.backward(g)
    xb = to_blocked(x, lanes).requires_grad_()
    out = own(xb)
    out.backward(to_blocked(g, lanes))
    near(unblocked(out.detach(), samples), y.detach(), dtype)
    near(unblocked(xb.grad, samples), xr.grad, dtype)
    near(own.weight.grad, conv.weight.grad[torch.from_numpy(keep)], dtype)
    near(own.bias.grad, conv.bias.grad, dtype)
    near(own_norm.weight.grad, norm.weight.grad, dtype)
    near(own_norm.bias.grad, norm.bias.grad, dtype)
    assert isinstance(own.structure(), Structure)


def test_cumulative_averages_follow_torch() -> None:
    """momentum=None averages over all batches seen."""
    layer = nn.BatchNorm2d(3, momentum=None)
    batch = Batch(samples=5)
    own = BlockedNorm(nn.BatchNorm2d(3, momentum=None), batch)
    for seed in range(3):
        x = torch.randn((5, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
        layer(x)
        own(to_blocked(x, 8))
    near(own.running_mean, layer.running_mean, torch.float32)
    near(own.running_var, layer.running_var, torch.float32)
    assert int(own.num_batches_tracked) == 3


def test_one_value_per_channel_is_refused_as_torch_does() -> None:
    own = BlockedNorm(nn.BatchNorm2d(3), Batch(samples=1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        own(torch.zeros(1, 3, 1, 1, 4))
