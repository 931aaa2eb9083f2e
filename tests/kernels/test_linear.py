"""Sparse linear layers against float64 autograd, whatever the shape."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.kernels.structure import Structure
from tests.kernels.blocked_layers import SparseMatmul, error, to_blocked, unblocked

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    inputs=st.sampled_from([1, 7, 64, 300]),
    outputs=st.sampled_from([1, 10, 33, 700]),  # 700 rows: more than one run
    samples=st.sampled_from([1, 4, 15, 16, 20, 32, 70, 130]),
    lanes=st.sampled_from([4, 8, 16]),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    bias=st.booleans(),
    input_gradient=st.booleans(),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_all_gradients_equal_autograd(
    dtype: torch.dtype, inputs: int, outputs: int, samples: int, lanes: int,
    density: float, bias: bool, input_gradient: bool, seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    pattern = torch.rand((outputs, inputs), generator=gen) < density
    weight = torch.randn(pattern.shape, generator=gen, dtype=torch.float64) * pattern
    x = torch.randn((samples, inputs), generator=gen, dtype=torch.float64)
    b = torch.randn(outputs, generator=gen, dtype=torch.float64).requires_grad_()
    weight.requires_grad_()
    x.requires_grad_()
    y = F.linear(x, weight, b if bias else None)
    g = torch.randn(y.shape, generator=gen, dtype=torch.float64)
    y.backward(g)
    structure = Structure.of(pattern.numpy(), dtype=dtype)
    values = weight.detach()[pattern].to(dtype).requires_grad_()
    own_bias = b.detach().to(dtype).requires_grad_() if bias else None
    blocked = to_blocked(x.detach().to(dtype), lanes).requires_grad_(input_gradient)
    out = SparseMatmul.apply(blocked, values, own_bias, structure)
    out.backward(to_blocked(g.to(dtype), lanes))
    tolerance = TOLERANCE[dtype]
    assert error(unblocked(out.detach(), samples), y.detach()) <= tolerance
    assert error(values.grad, weight.grad[pattern]) <= tolerance
    if input_gradient:
        assert error(unblocked(blocked.grad, samples), x.grad) <= tolerance
    if own_bias is not None:
        assert error(own_bias.grad, b.grad) <= tolerance


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    gen = torch.Generator().manual_seed(3)
    structure = Structure.of((torch.rand((300, 70), generator=gen) < 0.2).numpy())
    x = torch.randn((3, 70, 16), generator=gen)
    values = torch.randn(structure.nnz, generator=gen)

    def step(count: int) -> list[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        own, w = x.clone().requires_grad_(), values.clone().requires_grad_()
        y = SparseMatmul.apply(own, w, None, structure)
        y.backward(torch.sin(y.detach()))
        torch.set_num_threads(before)
        return [y.detach(), own.grad, w.grad]

    for one, many in zip(step(1), step(threads), strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["input", "weight"])
def test_nan_and_infinity_propagate_as_in_torch(value: float, where: str) -> None:
    gen = torch.Generator().manual_seed(0)
    pattern = torch.rand((9, 7), generator=gen) < 0.5
    weight, x = torch.randn((9, 7), generator=gen), torch.randn((8, 7), generator=gen)
    if where == "input":
        x[2, 3] = value
    else:
        weight[tuple(pattern.nonzero()[5])] = value
    weight = torch.where(pattern, weight, 0.0).requires_grad_()
    own = x.clone().requires_grad_()
    y = F.linear(own, weight)
    y.backward(torch.ones_like(y))
    blocked = to_blocked(x, 8).requires_grad_()
    values = weight.detach()[pattern].clone().requires_grad_()
    structure = Structure.of(pattern.numpy())
    out = SparseMatmul.apply(blocked, values, None, structure)
    out.backward(to_blocked(torch.ones_like(y), 8))
    # Off the mask, torch multiplies the value by zero; here nothing is computed.
    reads = pattern.T[3] if where == "input" else torch.ones(9, dtype=torch.bool)
    found = unblocked(out.detach(), 8)
    close = {"atol": 1e-5, "rtol": 1e-5, "equal_nan": True}
    assert torch.allclose(found[:, reads], y.detach()[:, reads], **close)
    assert found[:, ~reads].isfinite().all()
    assert torch.allclose(values.grad, weight.grad[pattern], **close)
    assert torch.allclose(unblocked(blocked.grad, 8), own.grad, **close)
