"""Layer norm, softmax, attention, sums and copies beside torch in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from blocked import DTYPES, blocks_of, call, code_of, near, pack, unpack
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.kernels.interface_sequence import (
    AttentionArguments,
    AxisArguments,
    CopyArguments,
    LayerNormArguments,
    WindowsArguments,
)

LANES = st.sampled_from([4, 8, 16])
THREADS = st.sampled_from([1, 2, 4])
SAMPLES = st.integers(1, 19)


def random(*shape: int, seed: int = 0, dtype: torch.dtype) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)


def empty(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Filled with NaN, so that what is not written shows."""
    return torch.full(shape or like.shape, math.nan, dtype=like.dtype)


def zero_padding(packed: torch.Tensor, samples: int) -> None:
    lanes = packed.shape[-1]
    if samples % lanes:
        assert not packed[-1][..., samples % lanes :].any()


def layer_norm(
    x: torch.Tensor,
    dy: torch.Tensor,
    gamma: Any,
    beta: Any,
    lanes: int,
    threads: int = 1,
) -> list[torch.Tensor]:
    """Value, gradient of x, and of gamma and beta; x (N, rows, width)."""
    samples, rows, width = x.shape
    packed, above = pack(x, lanes), pack(dy, lanes)
    d = LayerNormArguments(samples, lanes, len(packed), threads, rows, width, 0, 1e-5)
    y, mean, istd = empty(packed), *empty(packed, 2, len(packed), rows, lanes)
    call("fe_layer_norm_forward", d, packed, gamma, beta, y, mean, istd)
    dx, dgamma, dbeta = empty(packed), empty(x, width), empty(x, width)
    call(
        "fe_layer_norm_backward", d, packed, above, gamma, mean, istd, dx, dgamma, dbeta
    )
    zero_padding(dx, samples)
    return [unpack(y, samples), unpack(dx, samples), dgamma, dbeta]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    samples=SAMPLES, rows=st.integers(1, 5), width=st.integers(1, 33), lanes=LANES,
    threads=THREADS, affine=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_layer_norm_is_torchs_with_its_gradients(
    dtype: torch.dtype, samples: int, rows: int, width: int, lanes: int, threads: int,
    affine: bool, seed: int,
) -> None:  # fmt: skip
    x = random(samples, rows, width, seed=seed, dtype=dtype) * 2 + 1
    dy = random(samples, rows, width, seed=seed + 1, dtype=dtype)
    gamma = random(width, seed=2, dtype=dtype) if affine else None
    beta = random(width, seed=3, dtype=dtype) if affine else None
    own = [None if t is None else t.double().requires_grad_() for t in (x, gamma, beta)]
    assert own[0] is not None
    expected = F.layer_norm(own[0], (width,), own[1], own[2], 1e-5)
    expected.backward(dy.double())
    y, dx, dgamma, dbeta = layer_norm(x, dy, gamma, beta, lanes, threads)
    near(y, expected, 4)
    # A row of two near values has istd up to 300: rounding grows with it.
    near(dx, own[0].grad, 100 if width < 3 else 10)  # type: ignore[arg-type]
    if affine:
        near(dgamma, own[1].grad, 10)  # type: ignore[union-attr,arg-type]
        near(dbeta, own[2].grad, 10)  # type: ignore[union-attr,arg-type]


def test_threads_and_single_blocks_give_a_layer_norm_the_same_bits() -> None:
    x, dy = (random(29, 7, 50, seed=s, dtype=torch.float32) for s in (1, 2))
    gamma, beta = (random(50, seed=s, dtype=torch.float32) for s in (3, 4))
    first = layer_norm(x, dy, gamma, beta, 8)
    for threads in (2, 4):
        for one, many in zip(
            first, layer_norm(x, dy, gamma, beta, 8, threads), strict=True
        ):
            assert torch.equal(one, many)
    packed, above = pack(x, 8), pack(dy, 8)
    dgamma, dbeta = empty(x, 50), empty(x, 50)
    for block in range(4):
        valid = min(8, 29 - 8 * block)
        d = LayerNormArguments(valid, 8, 1, 1, 7, 50, int(block > 0), 1e-5)
        y, mean, istd = empty(packed[block]), empty(x, 7, 8), empty(x, 7, 8)
        call("fe_layer_norm_forward", d, packed[block], gamma, beta, y, mean, istd)
        call(
            "fe_layer_norm_backward", d, packed[block], above[block], gamma, mean, istd,
            None, dgamma, dbeta,
        )  # fmt: skip
    assert torch.equal(dgamma, first[2])
    assert torch.equal(dbeta, first[3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["softmax", "log_softmax", "sum", "mean"])
@given(
    samples=SAMPLES, shape=st.tuples(*[st.integers(1, 6)] * 3), lanes=LANES,
    threads=THREADS, seed=st.integers(0, 99),
)  # fmt: skip
def test_what_runs_along_an_axis_is_torchs_with_its_gradient(
    kind: str, dtype: torch.dtype, samples: int, shape: tuple[int, int, int],
    lanes: int, threads: int, seed: int,
) -> None:  # fmt: skip
    x = random(samples, *shape, seed=seed, dtype=dtype) * 4
    own = x.double().requires_grad_()
    expected: torch.Tensor = getattr(torch, kind)(own, 2)
    dy = random(*expected.shape, seed=seed + 1, dtype=dtype)
    expected.backward(dy.double())
    packed, above = pack(x, lanes), pack(dy, lanes)
    factor = 1 / shape[1] if kind == "mean" else 1.0
    d = AxisArguments(
        lanes, len(packed), threads, int(kind == "log_softmax"), *shape, factor
    )
    y, dx = empty(above), empty(packed)
    name = "softmax" if "softmax" in kind else "sum"
    call(f"fe_{name}_forward", d, packed, y)
    call(f"fe_{name}_backward", d, *([y] if name == "softmax" else []), above, dx)
    near(unpack(y, samples), expected)
    assert own.grad is not None
    near(unpack(dx, samples), own.grad)
    zero_padding(dx, samples)


def test_a_softmax_takes_any_size_of_logit() -> None:
    x = torch.tensor([[1e30, 0.0, -1e30], [-500.0, -500.0, -math.inf]])
    packed = pack(x, 4)
    y = empty(packed)
    call("fe_softmax_forward", AxisArguments(4, 1, 1, 0, 1, 3, 1, 1.0), packed, y)
    assert torch.allclose(unpack(y, 2), torch.softmax(x, 1))


def attention(
    parts: list[torch.Tensor], dy: torch.Tensor, lanes: int, *, threads: int = 1,
    causal: bool = False, p: float = 0.0, key: int = 0,
) -> list[torch.Tensor]:  # fmt: skip
    """Value and gradients of q, k, v, each (N, heads, length, width)."""
    samples, heads, queries, width = parts[0].shape
    keys, value_width = parts[2].shape[2:]
    q, k, v, above = (pack(t, lanes) for t in (*parts, dy))
    d = AttentionArguments(
        *(lanes, len(q), threads, heads, queries, keys, width, value_width),
        *(int(causal), 0, key, p, width**-0.5),
    )
    y, normalizer = empty(above), empty(q, len(q), heads, queries, lanes)
    call("fe_attention_forward", d, q, k, v, y, normalizer)
    grads = [empty(t) for t in (q, k, v)]
    call("fe_attention_backward", d, q, k, v, y, normalizer, above, *grads)
    for gradient in grads:
        zero_padding(gradient, samples)
    return [unpack(t, samples) for t in (y, *grads)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    samples=st.integers(1, 17), heads=st.integers(1, 3), queries=st.integers(1, 19),
    keys=st.integers(1, 19), width=st.integers(1, 7), value_width=st.integers(1, 7),
    lanes=LANES, threads=THREADS, causal=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_is_torchs_with_its_gradients(
    dtype: torch.dtype, samples: int, heads: int, queries: int, keys: int, width: int,
    value_width: int, lanes: int, threads: int, causal: bool, seed: int,
) -> None:  # fmt: skip
    shapes = ((queries, width), (keys, width), (keys, value_width))
    parts = [
        random(samples, heads, *shape, seed=seed + i, dtype=dtype)
        for i, shape in enumerate(shapes)
    ]
    dy = random(samples, heads, queries, value_width, seed=seed + 3, dtype=dtype)
    own = [t.double().requires_grad_() for t in parts]
    expected = F.scaled_dot_product_attention(*own, is_causal=causal)
    expected.backward(dy.double())
    found = attention(parts, dy, lanes, threads=threads, causal=causal)
    for ours, reference in zip(found, [expected, *(t.grad for t in own)], strict=True):
        assert reference is not None
        near(ours, reference, 4)


def test_attention_drops_the_same_probabilities_backward_and_on_any_lanes() -> None:
    """The gradient is that of the function with this mask, by differences."""
    parts = [random(5, 2, 7, 3, seed=s, dtype=torch.float64) for s in (1, 2, 3)]
    dy = random(5, 2, 7, 3, seed=4, dtype=torch.float64)
    first = attention(parts, dy, 4, p=0.3, key=9)
    for lanes in (8, 16):
        for ours, same in zip(
            attention(parts, dy, lanes, p=0.3, key=9, threads=2), first, strict=True
        ):
            near(ours, same)
    assert float((first[0] - attention(parts, dy, 4)[0]).abs().max()) > 1e-3
    for which in range(3):
        direction = random(5, 2, 7, 3, seed=5, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = list(parts)
            moved[which] = parts[which] + sign * 1e-6 * direction
            ends.append(float((attention(moved, dy, 4, p=0.3, key=9)[0] * dy).sum()))
        slope = float((first[1 + which] * direction).sum())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_threads_do_not_change_attention() -> None:
    parts = [random(21, 3, 40, 16, seed=s, dtype=torch.float32) for s in (1, 2, 3)]
    dy = random(21, 3, 40, 16, seed=4, dtype=torch.float32)
    for lanes in (4, 16):
        first = attention(parts, dy, lanes, causal=True, p=0.1)
        for threads in (2, 4):
            many = attention(parts, dy, lanes, causal=True, p=0.1, threads=threads)
            assert all(torch.equal(a, b) for a, b in zip(first, many, strict=True))


def copy(
    x: torch.Tensor, y: torch.Tensor, shape: tuple[int, ...],
    strides: tuple[tuple[int, ...], tuple[int, ...]], offsets: tuple[int, int] = (0, 0),
    threads: int = 1,
) -> int:  # fmt: skip
    """The code of a copy between packed tensors."""
    d = CopyArguments(x.shape[-1], len(x), threads, len(shape))
    for t in range(2):
        d.offset[t], d.elements[t] = offsets[t], (x, y)[t][0, ..., 0].numel()
        for i, step in enumerate(strides[t]):
            d.shape[i], d.stride[t][i] = shape[i], step
    return code_of("fe_copy", d, x, y)


@given(
    samples=SAMPLES, shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    lanes=LANES, threads=THREADS, data=st.data(),
)  # fmt: skip
def test_a_copy_permutes(
    samples: int, shape: list[int], lanes: int, threads: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    x = random(samples, *shape, dtype=torch.float32)
    expected = x.permute(0, *(i + 1 for i in order)).contiguous()
    packed = pack(x, lanes)
    y = empty(packed, len(packed), *expected.shape[1:], lanes)
    taken = x[0].permute(*order)
    steps = (taken.stride(), expected[0].stride())
    assert copy(packed, y, tuple(taken.shape), steps, threads=threads) == 0
    assert torch.equal(unpack(y, samples), expected)


def test_copies_cut_join_and_turn_round() -> None:
    x, other = (random(6, 4, 5, seed=s, dtype=torch.float32) for s in (1, 2))
    one, two = pack(x, 8), pack(other, 8)
    joined = empty(one, 1, 4, 10, 8)
    assert copy(one, joined, (4, 5), ((5, 1), (10, 1))) == 0
    assert copy(two, joined, (4, 5), ((5, 1), (10, 1)), (0, 5)) == 0
    assert torch.equal(unpack(joined, 6), torch.cat([x, other], 2))
    cut = empty(one, 1, 2, 3, 8)
    assert copy(one, cut, (2, 3), ((10, 1), (3, 1)), (6, 0)) == 0
    assert torch.equal(unpack(cut, 6), x[:, 1::2, 1:4])
    turned = empty(one)
    assert copy(one, turned, (4, 5), ((5, -1), (5, 1)), (4, 0)) == 0
    assert torch.equal(unpack(turned, 6), x.flip(2))


@pytest.mark.parametrize(
    ("shape", "strides", "offsets"),
    [
        ((21,), ((1,), (1,)), (0, 0)),
        ((20,), ((1,), (1,)), (1, 0)),
        ((20,), ((1,), (1,)), (0, -1)),
        ((20,), ((-1,), (1,)), (0, 0)),
        ((0,), ((1,), (1,)), (0, 0)),
        ((2, 2**62), ((2**62, 2**62), (1, 1)), (0, 0)),
    ],
)
def test_a_copy_that_leaves_a_tensor_is_refused(
    shape: tuple[int, ...], strides: Any, offsets: tuple[int, int]
) -> None:
    x = pack(torch.zeros(3, 4, 5), 4)
    assert copy(x, x.clone(), shape, strides, offsets) == 1


def test_operations_that_make_no_sense_are_refused() -> None:
    x = torch.zeros(64)
    for rows, width, samples in ((0, 4, 4), (4, 0, 4), (1, 4, 5)):
        d = LayerNormArguments(samples, 4, 1, 1, rows, width, 0, 1e-5)
        assert code_of("fe_layer_norm_forward", d, x, None, None, x, x, x) == 1
    for outer, count, inner in ((0, 1, 1), (1, 0, 1), (2**40, 2**30, 1)):
        axis = AxisArguments(4, 1, 1, 0, outer, count, inner, 1.0)
        assert code_of("fe_softmax_forward", axis, x, x) == 1
    for heads, keys, p in ((0, 1, 0.0), (1, 0, 0.0), (1, 1, 1.0), (1, 1, math.nan)):
        at = AttentionArguments(4, 1, 1, heads, 1, keys, 1, 1, 0, 0, 0, p, 1.0)
        assert code_of("fe_attention_forward", at, x, x, x, x, x) == 1
    assert blocks_of(9, 4) == 3


@given(
    samples=SAMPLES, lanes=LANES, threads=THREADS, outer=st.integers(1, 3),
    size=st.integers(1, 6), hop=st.integers(1, 8), more=st.integers(0, 20),
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_and_their_sum_are_torchs(
    dtype: torch.dtype, samples: int, lanes: int, threads: int, outer: int, size: int,
    hop: int, more: int,
) -> None:  # fmt: skip
    length = size + more
    x = random(samples, outer, length, dtype=dtype).requires_grad_(True)
    wanted = x.unfold(2, size, hop)
    above = random(*wanted.shape, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(wanted, x, above)
    packed, own = pack(x.detach(), lanes), pack(above, lanes)
    d = WindowsArguments(lanes, len(packed), threads, outer, length, size, hop)
    y, dx = empty(own), empty(packed)
    call("fe_windows", d, packed, y)
    call("fe_overlap_add", d, own, dx)
    assert torch.equal(unpack(y, samples), wanted)
    near(unpack(dx, samples), gradient)


def test_windows_longer_than_their_row_are_refused() -> None:
    x = torch.zeros(1, 4, 4)
    for length, size, hop in ((4, 5, 1), (4, 0, 1), (4, 2, 0)):
        d = WindowsArguments(4, 1, 1, 1, length, size, hop)
        assert code_of("fe_windows", d, x, x) == 1
        assert code_of("fe_overlap_add", d, x, x) == 1
