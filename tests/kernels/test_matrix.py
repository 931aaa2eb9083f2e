"""Products of a sample's own matrices, and choices, beside torch in float64."""

from __future__ import annotations

import pytest
import torch
from blocked import DTYPES, blocks_of, call, near, pack, unpack
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.kernels.interface_sequence import ProductArguments

SIZES = st.integers(1, 7)


def product(
    a: torch.Tensor, b: torch.Tensor, dc: torch.Tensor, lanes: int, threads: int = 1
) -> list[torch.Tensor]:
    """The product and both gradients, by the kernels."""
    samples, count, rows, depth = a.shape
    columns = b.shape[-1]
    d = ProductArguments(
        *(lanes, blocks_of(samples, lanes), threads, count, rows, depth, columns)
    )
    one, two, above = (pack(t, lanes) for t in (a, b, dc))
    c, da, db = (torch.full_like(t, 9.0) for t in (above, one, two))
    call("fe_product_forward", d, one, two, c)
    call("fe_product_backward", d, one, two, above, da, db)
    return [unpack(t, samples) for t in (c, da, db)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lanes", [4, 8, 16])
@given(
    sizes=st.tuples(SIZES, st.integers(1, 3), SIZES, SIZES, SIZES),
    seed=st.integers(0, 99),
)
def test_a_product_is_torchs_with_its_gradients(
    dtype: torch.dtype, lanes: int, sizes: tuple[int, ...], seed: int
) -> None:
    samples, count, rows, depth, columns = sizes
    gen = torch.Generator().manual_seed(seed)
    a = torch.randn(samples, count, rows, depth, generator=gen, dtype=dtype)
    b = torch.randn(samples, count, depth, columns, generator=gen, dtype=dtype)
    dc = torch.randn(samples, count, rows, columns, generator=gen, dtype=dtype)
    one, two = (t.double().requires_grad_() for t in (a, b))
    expected = one @ two
    expected.backward(dc.double())
    found = product(a, b, dc, lanes)
    for own, reference in zip(found, (expected, one.grad, two.grad), strict=True):
        assert reference is not None
        near(own, reference)


def test_threads_do_not_change_a_product() -> None:
    a, b = torch.randn(9, 3, 5, 6), torch.randn(9, 3, 6, 7)
    dc = torch.randn(9, 3, 5, 7)
    one = product(a, b, dc, 8)
    for threads in (2, 4):
        assert all(map(torch.equal, product(a, b, dc, 8, threads), one))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_choice_takes_each_value_from_its_side(dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(0)
    which = (torch.rand(333, generator=gen) > 0.5).to(dtype)
    a, b, dy = torch.randn(3, 333, generator=gen, dtype=dtype)
    a, b = a.masked_fill(which == 0, float("nan")), b.masked_fill(which == 1, 1e30)
    y, da, db = (torch.full_like(a, 9.0) for _ in range(3))
    call("fe_choice_forward", 333, 2, which, a, b, y)
    call("fe_choice_backward", 333, 2, which, dy, da, db)
    assert torch.equal(y, torch.where(which != 0, a, b))
    assert torch.equal(da, dy * which)
    assert torch.equal(db, dy * (1 - which))
