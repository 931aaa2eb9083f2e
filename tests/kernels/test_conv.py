"""Sparse convolutions against float64 autograd, whatever the shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.kernels.structure import Structure
from tests.kernels.blocked_layers import (
    Conv,
    SparseConv,
    conv_forward,
    error,
    to_blocked,
    unblocked,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
BOUNDED = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Case:
    samples: int
    channels: int
    units: int
    groups: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    lanes: int
    density: float
    bias: bool
    relu: bool
    seed: int


small = st.integers(1, 3)
cases = st.builds(
    Case,
    samples=st.sampled_from([1, 2, 4, 7, 8, 16, 17, 33]),
    channels=st.sampled_from([1, 3, 8]),
    units=st.sampled_from([1, 5, 16]),
    groups=st.sampled_from([1, 1, 1, 2, 3]),
    size=st.tuples(st.integers(1, 13), st.integers(1, 19)),
    kernel=st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3, 5])),
    stride=st.tuples(small, small),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    lanes=st.sampled_from([4, 8, 16]),
    density=st.sampled_from([0.0, 0.02, 0.2, 0.6, 1.0]),
    bias=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 2**31),
)


def fits(case: Case) -> bool:
    return all(
        n + 2 * p >= d * (k - 1) + 1
        for n, p, d, k in zip(
            case.size, case.padding, case.dilation, case.kernel, strict=True
        )
    )


def inputs_of(case: Case) -> tuple[torch.Tensor, ...]:
    gen = torch.Generator().manual_seed(case.seed)
    shape = (case.units * case.groups, case.channels, *case.kernel)
    pattern = torch.rand(shape, generator=gen) < case.density
    weight = torch.randn(shape, generator=gen, dtype=torch.float64) * pattern
    x = torch.randn(
        (case.samples, case.channels * case.groups, *case.size),
        generator=gen, dtype=torch.float64,
    )  # fmt: skip
    bias = torch.randn(shape[0], generator=gen, dtype=torch.float64)
    return pattern, weight, x, bias


def run(case: Case, dtype: torch.dtype, *, input_gradient: bool) -> None:
    pattern, weight, x, bias = inputs_of(case)
    weight, x, bias = weight.requires_grad_(), x.requires_grad_(), bias.requires_grad_()
    y = F.conv2d(
        F.relu(x) if case.relu else x, weight, bias if case.bias else None, case.stride,
        case.padding, case.dilation, case.groups,
    )  # fmt: skip
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    y.backward(g)
    plan = Conv(
        Structure.of(pattern.numpy(), groups=case.groups, dtype=dtype),
        *(case.stride, case.padding, case.dilation),
        relu=int(case.relu),
    )
    values = weight.detach()[pattern].to(dtype).requires_grad_()
    own_bias = bias.detach().to(dtype).requires_grad_() if case.bias else None
    blocked = to_blocked(x.detach().to(dtype), case.lanes).requires_grad_(
        input_gradient
    )
    out = SparseConv.apply(blocked, values, own_bias, plan)
    out.backward(to_blocked(g.to(dtype), case.lanes))
    tolerance = TOLERANCE[dtype]
    assert error(unblocked(out.detach(), case.samples), y.detach()) <= tolerance
    assert error(values.grad, weight.grad[pattern]) <= tolerance
    if input_gradient:
        assert error(unblocked(blocked.grad, case.samples), x.grad) <= tolerance
    if own_bias is not None:
        assert error(own_bias.grad, bias.grad) <= tolerance


@BOUNDED
@given(case=cases, input_gradient=st.booleans())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_all_gradients_equal_autograd(
    dtype: torch.dtype, case: Case, input_gradient: bool
) -> None:
    assume(fits(case))
    run(case, dtype, input_gradient=input_gradient)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_layers_beyond_the_first_level_cache_are_taken_in_runs(
    dtype: torch.dtype, groups: int, stride: int
) -> None:
    """What a tile reads of 128 channels is 65 KB and more, of input or of gradient."""
    case = Case(
        samples=16, channels=128, units=128, groups=groups, size=(9, 9), kernel=(3, 3),
        stride=(stride, stride), padding=(1, 1), dilation=(1, 1), lanes=16, density=0.3,
        bias=True, relu=True, seed=4,
    )  # fmt: skip
    run(case, dtype, input_gradient=True)


# Few weights and 2 MB and more of a block's input and gradients.
PLANES = {"3 x 3": (16, 16, (30, 37), 3), "1 x 1": (24, 40, (31, 21), 1)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", PLANES)
def test_wide_layers_with_few_weights_go_plane_by_plane(
    dtype: torch.dtype, relu: bool, kind: str
) -> None:
    channels, units, size, kernel = PLANES[kind]
    case = Case(
        samples=18, channels=channels, units=units, groups=1, size=size,
        kernel=(kernel, kernel), stride=(1, 1), padding=(kernel // 2, kernel // 2),
        dilation=(1, 1), lanes=16, density=0.1, bias=True, relu=relu, seed=4,
    )  # fmt: skip
    run(case, dtype, input_gradient=True)


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("kind", PLANES)
def test_threads_leave_the_bits_of_planes(threads: int, kind: str) -> None:
    channels, units, size, kernel = PLANES[kind]
    _same_bits((units, channels, kernel, kernel), size, 16, threads, 1)


# A padded block is 4 MB and more, of input or of gradient: twice the second-level
# cache of most processors. Channels, units, size, kernel, stride, padding, dilation.
BANDS = {
    "3 x 3": (32, 32, (45, 47), (3, 3), (1, 1), (1, 1), (1, 1)),
    "stride 2, odd rows": (16, 128, (49, 45), (3, 3), (2, 2), (1, 1), (1, 1)),
    "stride 2, even rows": (40, 128, (48, 46), (3, 3), (2, 2), (1, 1), (1, 1)),
    "5 x 3, dilated": (32, 32, (47, 50), (5, 3), (1, 2), (2, 0), (2, 1)),
    "stride 3": (40, 64, (70, 43), (3, 3), (3, 1), (2, 1), (1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("kind", BANDS)
def test_wide_layers_are_padded_band_by_band(dtype: torch.dtype, kind: str) -> None:
    channels, units, size, kernel, stride, padding, dilation = BANDS[kind]
    case = Case(
        samples=18, channels=channels, units=units, groups=1, size=size, kernel=kernel,
        stride=stride, padding=padding, dilation=dilation, lanes=16, density=0.2,
        bias=True, relu=True, seed=5,
    )  # fmt: skip
    run(case, dtype, input_gradient=True)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["3 x 3", "stride 2, odd rows"])
def test_threads_leave_the_bits_of_bands(threads: int, kind: str) -> None:
    channels, units, size, kernel, stride, *_ = BANDS[kind]
    _same_bits((units, channels, *kernel), size, 16, threads, stride[0])


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(lanes: int, threads: int) -> None:
    _same_bits((24, 16, 3, 3), (13, 11), lanes, threads, 2)


def _same_bits(
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    lanes: int,
    threads: int,
    stride: int,
) -> None:
    """A step with one thread and with `threads`, of weights (out, in, kh, kw)."""
    gen = torch.Generator().manual_seed(3)
    pattern = torch.rand(shape, generator=gen) < 0.2
    padding = shape[2] // 2
    plan = Conv(
        Structure.of(pattern.numpy()), (stride, stride), (padding, padding), relu=1
    )
    x = to_blocked(torch.randn((20, shape[1], *size), generator=gen), lanes)
    values = torch.randn(int(pattern.sum()), generator=gen)

    def step(count: int) -> list[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        own = x.clone().requires_grad_()
        w = values.clone().requires_grad_()
        y = SparseConv.apply(own, w, None, plan)
        y.backward(torch.cos(y.detach()))
        torch.set_num_threads(before)
        return [y.detach(), own.grad, w.grad]

    for one, many in zip(step(1), step(threads), strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_propagate_as_in_torch(value: float) -> None:
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn((4, 3, 3, 3), generator=gen, requires_grad=True)
    x = torch.randn((5, 3, 6, 6), generator=gen)
    x[2, 1, 3, 3] = value
    own = x.clone().requires_grad_()
    y = F.conv2d(F.relu(own), weight, padding=1)
    y.backward(torch.ones_like(y))
    full = np.ones((4, 3, 3, 3), np.bool_)
    plan = Conv(Structure.of(full), (1, 1), (1, 1), relu=1)
    blocked = to_blocked(x, 8).requires_grad_()
    w = weight.detach().reshape(-1).clone().requires_grad_()
    out = SparseConv.apply(blocked, w, None, plan)
    out.backward(to_blocked(torch.ones_like(y), 8))
    close = {"atol": 1e-4, "rtol": 1e-4, "equal_nan": True}
    assert torch.allclose(unblocked(out.detach(), 5), y.detach(), **close)
    assert torch.allclose(w.grad, weight.grad.reshape(-1), **close)
    assert torch.allclose(unblocked(blocked.grad, 5), own.grad, **close)


def test_a_kernel_larger_than_the_input_is_refused() -> None:
    plan = Conv(Structure.of(np.ones((2, 1, 5, 5), np.bool_)))
    with pytest.raises(EngineError, match="out of range"):
        conv_forward(torch.zeros(1, 1, 4, 4, 4), torch.zeros(50), None, plan, None)
