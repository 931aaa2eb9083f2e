"""Embeddings, sparse and dense, against float64 autograd."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import EmbeddingArguments
from edge_sdk.kernels.structure import Structure
from tests.kernels.blocked_layers import pointer, to_blocked


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.sampled_from([1, 7, 300]),
    columns=st.sampled_from([1, 5, 33]),
    positions=st.sampled_from([1, 6]),
    samples=st.sampled_from([1, 5, 16, 37]),
    lanes=st.sampled_from([4, 8, 16]),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    padded=st.booleans(),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_values_and_gradients_equal_autograd_with_any_number_of_threads(
    dtype: torch.dtype, rows: int, columns: int, positions: int, samples: int,
    lanes: int, density: float, padded: bool, seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    pattern = torch.rand((rows, columns), generator=gen) < density
    weight = torch.randn(pattern.shape, generator=gen, dtype=torch.float64) * pattern
    weight.requires_grad_()
    tokens = torch.randint(0, rows, (samples, positions), generator=gen)
    padding = rows // 2 if padded else None
    y = F.embedding(tokens, weight, padding)
    g = torch.randn(y.shape, generator=gen, dtype=torch.float64)
    y.backward(g)
    structure = Structure.of(pattern.numpy(), dtype=dtype)
    values = weight.detach()[pattern].to(dtype)
    held = to_blocked(tokens.to(dtype), lanes)
    found = torch.full((len(held), positions, columns, lanes), 7.0, dtype=dtype)
    dy, bits = to_blocked(g.to(dtype), lanes), set()
    for threads in (1, 2, 5):
        arguments = EmbeddingArguments(
            samples, lanes, len(held), threads, positions,
            -1 if padding is None else padding, 0,
        )  # fmt: skip
        gradient = torch.full_like(values, 7.0)
        structure.kernels.call(
            "fe_embedding_forward", structure.handle, ctypes.byref(arguments),
            *map(pointer, (held, values, found)),
        )  # fmt: skip
        structure.kernels.call(
            "fe_embedding_backward", structure.handle, ctypes.byref(arguments),
            *map(pointer, (held, dy, gradient)),
        )  # fmt: skip
        bits.add((found.numpy().tobytes(), gradient.numpy().tobytes()))
    assert len(bits) == 1
    plain = found.movedim(-1, 1).reshape(-1, positions, columns)
    assert torch.equal(plain[:samples], y.detach().to(dtype))
    assert (plain[samples:] == plain[samples - 1]).all()  # nothing to divide by zero
    close = {"rtol": 1e-5 if dtype == torch.float32 else 1e-12, "atol": 1e-5}
    torch.testing.assert_close(gradient, weight.grad[pattern].to(dtype), **close)


@pytest.mark.parametrize("token", [-1.0, 7.0, float("nan"), float("inf")])
def test_a_token_that_is_no_row_is_refused(token: float) -> None:
    structure = Structure.of(torch.ones((7, 3), dtype=torch.bool).numpy())
    arguments = EmbeddingArguments(5, 4, 2, 1, 1, -1, 0)
    tokens, y = torch.zeros((2, 1, 4)), torch.zeros((2, 1, 3, 4))
    tokens[1, 0, 0] = token  # the fifth of five samples
    values = torch.ones(21)
    with pytest.raises(EngineError, match="token is out of range"):
        structure.kernels.call(
            "fe_embedding_forward", structure.handle, ctypes.byref(arguments),
            *map(pointer, (tokens, values, y)),
        )  # fmt: skip
    tokens[1, 0, 0], tokens[1, 0, 1] = 0.0, token  # a padded lane
    structure.kernels.call(
        "fe_embedding_forward", structure.handle, ctypes.byref(arguments),
        *map(pointer, (tokens, values, y)),
    )  # fmt: skip
