"""Max pooling with and without ReLU, positive ties and NaN included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.kernels.blocked_layers import MaxPool, to_blocked, unblocked


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.one_of(
        st.sampled_from([(2, 2), (3, 3)]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
    ),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.booleans(),
    relu=st.booleans(),
    nan=st.booleans(),
    samples=st.sampled_from([1, 5, 16, 19]),
    lanes=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_values_and_gradients_equal_torch(
    dtype: torch.dtype, size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], padded: bool, relu: bool, nan: bool, samples: int,
    lanes: int, seed: int,
) -> None:  # fmt: skip
    """Small integers: ties in nearly every window, so the winner rule is tested."""
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    gen = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (samples, 2, *size), generator=gen).to(dtype)
    if nan:
        x[0, 0, 0, 0] = float("nan")
    own = x.clone().requires_grad_()
    y = F.max_pool2d(own, kernel, stride, padding)
    y = F.relu(y) if relu else y
    g = torch.randn(y.shape, generator=gen, dtype=dtype)
    y.backward(g)
    blocked = to_blocked(x, lanes).requires_grad_()
    out = MaxPool.apply(blocked, kernel, stride, padding, relu)
    out.backward(to_blocked(g, lanes))
    exact = {"atol": 0.0, "rtol": 0.0, "equal_nan": True}
    assert torch.allclose(unblocked(out.detach(), samples), y.detach(), **exact)
    assert torch.allclose(unblocked(blocked.grad, samples), own.grad, atol=1e-5)
