"""Activations, broadcast sums and products, and dropout beside torch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from blocked import DTYPES, blocks_of, call, code_of, near, pack, unpack
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.kernels.interface_elementwise import (
    ACTIVATIONS,
    BINARY,
    ActivationArguments,
    BinaryArguments,
    DropoutArguments,
)

Function = Callable[[torch.Tensor], torch.Tensor]
CASES: dict[str, tuple[Function, float, float]] = {
    "affine": (lambda x: -1.5 * x + 0.25, -1.5, 0.25),
    "relu": (F.relu, 0, 0),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 6.0), -0.5, 6.0),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), 0.1, 0),
    "gelu": (F.gelu, 0, 0),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 0, 0),
    "silu": (F.silu, 0, 0),
    "hardswish": (F.hardswish, 0, 0),
    # torch's own has a sixth in single precision in its gradient.
    "hardsigmoid": (lambda x: F.relu6(x + 3) / 6, 0, 0),
    "sigmoid": (torch.sigmoid, 0, 0),
    "tanh": (torch.tanh, 0, 0),
    "elu": (lambda x: 1.5 * F.elu(x, 0.7), 0.7, 1.5),
    "softplus": (lambda x: F.softplus(x, 2.0, 9.0), 2.0, 9.0),
    "mish": (F.mish, 0, 0),
    "abs": (torch.abs, 0, 0),
    "sin": (torch.sin, 0, 0),
    "cos": (torch.cos, 0, 0),
    "erf": (torch.erf, 0, 0),
    "atan": (torch.atan, 0, 0),
    "trunc": (lambda x: torch.trunc(x) + (x * 0).nan_to_num(), 0, 0),
    "floor": (lambda x: torch.floor(x) + (x * 0).nan_to_num(), 0, 0),
    "round": (lambda x: torch.round(x) + (x * 0).nan_to_num(), 0, 0),
    "stop": (lambda x: x.detach() + (x * 0).nan_to_num(), 0, 0),
    "greater": (lambda x: (x > 0.5) + (x * 0).nan_to_num(), 0.5, 0),
    "equal": (lambda x: (x == 3.0) + (x * 0).nan_to_num(), 3.0, 0),
}
# Of values above zero; away from it, their slopes are no larger than the values are.
POSITIVE: dict[str, tuple[Function, float, float]] = {
    "exp": (torch.exp, 0, 0),
    "log": (torch.log, 0, 0),
    "sqrt": (torch.sqrt, 0, 0),
    "reciprocal": (torch.reciprocal, 0, 0),
    "power": (lambda x: x**0.75, 0.75, 0),
}
INPUT, OUTPUT = 1, 2


def activation(
    name: str, x: torch.Tensor, dy: torch.Tensor, threads: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The value and the gradient, by the kernels."""
    _, a, b = {**CASES, **POSITIVE}[name]
    d = ActivationArguments(ACTIVATIONS.index(name), threads, x.numel(), a, b)
    y, dx = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    call("fe_activation_forward", d, x, y)
    saved = {0: None, INPUT: x, OUTPUT: y}[code_of("fe_activation_saves", d)]
    call("fe_activation_backward", d, saved, dy, dx)
    return y, dx


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@given(count=st.integers(1, 700), seed=st.integers(0, 99), wide=st.booleans())
def test_an_activation_is_torchs_with_its_gradient(
    name: str, dtype: torch.dtype, count: int, seed: int, wide: bool
) -> None:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * count, generator=gen, dtype=dtype) * (20 if wide else 2)
    dy = torch.randn(4 * count, generator=gen, dtype=dtype)
    own = x.double().requires_grad_()
    expected = CASES[name][0](own)
    expected.backward(dy.double())
    y, dx = activation(name, x, dy)
    assert own.grad is not None
    near(y, expected)
    near(dx, own.grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", POSITIVE)
def test_a_function_of_positive_values_is_torchs(name: str, dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(3)
    x = torch.rand(801, generator=gen, dtype=dtype) * 4 + 0.05
    dy = torch.randn(801, generator=gen, dtype=dtype)
    own = x.double().requires_grad_()
    expected = POSITIVE[name][0](own)
    expected.backward(dy.double())
    y, dx = activation(name, x, dy)
    assert own.grad is not None
    near(y, expected)
    near(dx, own.grad)


@pytest.mark.parametrize("exponent", [2.0, 3.0, -1.0, -2.0, 0.5])
def test_a_power_of_any_sign_is_torchs(exponent: float) -> None:
    x = torch.tensor([-3.0, -0.5, 0.0, 0.25, 2.0])
    d = ActivationArguments(ACTIVATIONS.index("power"), 1, x.numel(), exponent, 0)
    y = torch.full_like(x, 9.0)
    call("fe_activation_forward", d, x, y)
    torch.testing.assert_close(y, x**exponent, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", POSITIVE)
def test_a_slope_without_bound_is_nothing_where_nobody_asks(name: str) -> None:
    x = torch.zeros(64)
    _, dx = activation(name, x, torch.zeros_like(x))
    assert torch.equal(dx, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "exact"),
    [("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("gelu", F.gelu)],
)
def test_small_and_large_values_keep_their_relative_precision(
    name: str, exact: Function, dtype: torch.dtype
) -> None:
    x = torch.logspace(-30, 2, 4000, dtype=dtype)
    x = torch.cat([-x.flip(0)[:800], x]) if name != "gelu" else x
    y, _ = activation(name, x, x)
    reference = exact(x.double())
    # e^-x of a float's x is itself inexact by |x| units in the last place.
    usable = reference.abs() > 1e-30
    limit = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    relative = ((y.double() - reference) / reference).abs()[usable]
    assert float(relative.max()) < limit * 8


@pytest.mark.parametrize("name", CASES)
def test_infinities_and_nan_are_as_in_torch(name: str) -> None:
    special = [math.nan, 0.0, -0.0, 3.0, -3.0, 6.0, -0.5, 1e30, -1e30, 1e-40]
    # torch's gelu of an infinity is a NaN where it runs on vectors.
    infinite = [] if "gelu" in name else [math.inf, -math.inf]
    x = torch.tensor(special + infinite)
    own = x.clone().requires_grad_()
    expected = CASES[name][0](own)
    expected.backward(torch.ones_like(x))
    y, dx = activation(name, x, torch.ones_like(x))
    assert torch.allclose(y, expected.detach(), atol=1e-6, equal_nan=True)
    assert own.grad is not None
    finite = x.isfinite()
    assert torch.allclose(dx[finite], own.grad[finite], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_a_zero_gradient_stays_zero(name: str) -> None:
    x = torch.linspace(-9, 9, 64)
    _, dx = activation(name, x, torch.zeros_like(x))
    assert torch.equal(dx, torch.zeros_like(x))


@pytest.mark.parametrize("name", CASES)
def test_threads_do_not_change_an_activation(name: str) -> None:
    gen = torch.Generator().manual_seed(1)
    x, dy = torch.randn(2, 40_001 * 4, generator=gen)
    one = activation(name, x, dy)
    for threads in (2, 4):
        many = activation(name, x, dy, threads)
        assert torch.equal(one[0], many[0])
        assert torch.equal(one[1], many[1])


def test_an_activation_that_makes_no_sense_is_refused() -> None:
    x = torch.zeros(8)
    for kind, a, b in ((99, 0, 0), (-1, 0, 0), (2, 1, 0), (3, -0.1, 0)):
        d = ActivationArguments(kind, 1, 8, a, b)
        assert code_of("fe_activation_forward", d, x, x) == 1
    relu = ActivationArguments(1, 1, 8, 0, 0)
    assert code_of("fe_activation_backward", relu, None, x, x) == 1


Shape = tuple[int, ...]


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[Shape, Shape, Shape]:
    """An output shape and two shapes that are broadcast to it."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    kept = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    one, two = draw(kept), draw(kept)
    a = tuple(n if k else 1 for n, k in zip(shape, one, strict=True))
    b = tuple(n if k or m == 1 else 1 for n, k, m in zip(shape, two, a, strict=True))
    return tuple(shape), a, b


def strides(small: Shape) -> list[int]:
    steps = [int(np.prod(small[i + 1 :])) for i in range(len(small))]
    return [s if n > 1 else 0 for s, n in zip(steps, small, strict=True)]


def binary(
    kind: str, shape: Shape, a: Shape, b: Shape, batched: tuple[bool, bool], lanes: int,
    blocks: int, threads: int = 1, accumulate: int = 0,
) -> BinaryArguments:  # fmt: skip
    d = BinaryArguments(
        BINARY.index(kind), lanes, blocks, threads, len(shape), accumulate
    )
    for i, n in enumerate(shape):
        d.shape[i] = n
        d.stride[0][i], d.stride[1][i] = strides(a)[i], strides(b)[i]
    d.elements[0], d.elements[1] = int(np.prod(a)), int(np.prod(b))
    d.batched[0], d.batched[1] = batched
    return d


def sides(
    batched: tuple[bool, bool], *shapes: Shape, samples: int, seed: int
) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    made = []
    for shape, has_batch in zip(shapes, batched, strict=True):
        full = (samples, *shape) if has_batch else shape
        made.append(torch.randn(full, generator=gen, dtype=torch.float64))
    return made


REFERENCE = {"add": torch.add, "subtract": torch.sub, "multiply": torch.mul}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", BINARY)
@given(
    shapes=broadcasts(),
    batched=st.sampled_from([(True, True), (True, False), (False, True)]),
    samples=st.integers(1, 19),
    lanes=st.sampled_from([4, 8, 16]),
    threads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_a_broadcast_sum_or_product_is_torchs_with_its_gradients(
    kind: str, dtype: torch.dtype, shapes: tuple[Shape, Shape, Shape],
    batched: tuple[bool, bool], samples: int, lanes: int, threads: int, seed: int,
) -> None:  # fmt: skip
    shape, *small = shapes
    pair = sides(batched, *small, samples=samples, seed=seed)
    own = [t.to(dtype).double().requires_grad_() for t in pair]
    expected = REFERENCE[kind](*own)
    dy = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
    expected.backward(dy.double())
    blocks = blocks_of(samples, lanes)
    d = binary(kind, shape, small[0], small[1], batched, lanes, blocks, threads)
    packed = [
        pack(t.to(dtype), lanes) if has else t.to(dtype)
        for t, has in zip(pair, batched, strict=True)
    ]
    y = torch.full((blocks, *shape, lanes), math.nan, dtype=dtype)
    call("fe_binary_forward", d, *packed, y)
    near(unpack(y, samples), expected)
    grads = [torch.full_like(t, math.nan) for t in packed]
    call("fe_binary_backward", d, *packed, pack(dy, lanes), *grads)
    for grad, reference, has in zip(grads, own, batched, strict=True):
        assert reference.grad is not None
        near(unpack(grad, samples) if has else grad, reference.grad, 4)
        if has and samples % lanes:
            assert not grad[-1][..., samples % lanes :].any()


@pytest.mark.parametrize("kind", BINARY)
def test_a_parameters_gradient_has_the_same_bits_block_by_block(kind: str) -> None:
    """And with any number of threads: one block at a time is what saves memory."""
    shape, lanes, samples = (5, 7, 13), 8, 29
    a, scale = sides((True, False), shape, (1, 7, 1), samples=samples, seed=3)
    x, w = pack(a.float(), lanes), scale.float()
    dy = pack(torch.randn(samples, *shape), lanes)
    whole = {}
    for threads in (1, 2, 4):
        d = binary(kind, shape, shape, (1, 7, 1), (True, False), lanes, 4, threads)
        whole[threads] = torch.full_like(w, math.nan)
        call("fe_binary_backward", d, x, w, dy, None, whole[threads])
    single = torch.full_like(w, math.nan)
    for block in range(4):
        d = binary(
            kind, shape, shape, (1, 7, 1), (True, False), lanes, 1,
            accumulate=int(block > 0),
        )  # fmt: skip
        call("fe_binary_backward", d, x[block], w, dy[block], None, single)
    assert all(torch.equal(single, found) for found in whole.values())


def test_strides_that_leave_an_operand_are_refused() -> None:
    x = torch.zeros(4, 8)
    good = binary("add", (4,), (4,), (4,), (True, True), 8, 1)
    assert code_of("fe_binary_forward", good, x, x, torch.zeros(4, 8)) == 0
    for change in ("elements", "dims", "shape", "stride", "kind", "blocks", "lanes"):
        d = binary("add", (4,), (4,), (4,), (True, True), 8, 1)
        match change:
            case "elements":
                d.elements[1] = 3
            case "shape":
                d.shape[0] = 5
            case "stride":
                d.stride[0][0] = 2
            case _:
                setattr(
                    d, change, {"dims": 7, "kind": 3, "blocks": 0, "lanes": 5}[change]
                )
        assert code_of("fe_binary_forward", d, x, x, torch.zeros(4, 8)) == 1


def test_accumulate_adds_and_threads_do_not_matter() -> None:
    x, y = torch.randn(2, 40_004)
    for threads in (1, 2, 4):
        out = y.clone()
        call("fe_accumulate", x.numel(), threads, x, out)
        assert torch.equal(out, y + x)


def dropped(
    x: torch.Tensor, lanes: int, p: float, key: int, threads: int = 1
) -> torch.Tensor:
    """Dropout of (samples, elements)."""
    packed = pack(x, lanes)
    d = DropoutArguments(lanes, len(packed), threads, 0, x.shape[1], key, p)
    y = torch.full_like(packed, math.nan)
    call("fe_dropout", d, packed, y)
    return unpack(y, len(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dropout_mask_depends_on_key_sample_and_element_alone(
    dtype: torch.dtype,
) -> None:
    x = torch.rand(37, 51, dtype=dtype) + 1
    first = dropped(x, 4, 0.3, key=7)
    for lanes in (4, 8, 16):
        for threads in (1, 2, 4):
            assert torch.equal(dropped(x, lanes, 0.3, 7, threads), first)
    kept = first != 0
    assert torch.allclose(first[kept], x[kept] / 0.7)
    assert abs(float(kept.double().mean()) - 0.7) < 0.04
    assert not torch.equal(dropped(x, 4, 0.3, key=8) != 0, kept)
    assert torch.equal(dropped(x.float(), 8, 0.3, key=7) != 0, kept)


def test_dropout_runs_block_by_block_with_the_same_mask() -> None:
    x = torch.ones(32, 9)
    whole = dropped(x, 8, 0.5, key=3)
    for block in range(4):
        d = DropoutArguments(8, 1, 1, 8 * block, 9, 3, 0.5)
        packed = pack(x[:8], 8)
        call("fe_dropout", d, packed, packed)
        assert torch.equal(unpack(packed, 8), whole[8 * block : 8 * block + 8])


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> list[int]:
    """Threefry-2x32 with 20 rounds, after its paper."""
    ks = [*key, 0x1BD11BDA ^ key[0] ^ key[1]]
    a, b = (counter[0] + ks[0]) % 2**32, (counter[1] + ks[1]) % 2**32
    for i in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        a = (a + b) % 2**32
        b = ((b << turn | b >> (32 - turn)) % 2**32) ^ a
        if i % 4 == 3:
            step = i // 4 + 1
            a = (a + ks[step % 3]) % 2**32
            b = (b + ks[(step + 1) % 3] + step) % 2**32
    return [a, b]


def test_the_generator_is_threefry_and_the_kernel_draws_from_it() -> None:
    # The paper's own vectors, so that another language can draw the same masks.
    assert threefry((0, 0), (0, 0)) == [0x6B200159, 0x99BA4EFE]
    pi = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert threefry(*pi) == [0xC4923A9C, 0x483DF7A0]
    key = 0x0370734413198A2E
    mask = dropped(torch.ones(5, 7), 4, 0.25, key) != 0
    for sample in range(5):
        for element in range(7):
            word = threefry(pi[0], (element // 2, sample))[element % 2]
            assert bool(mask[sample, element]) == (word >= 2**30)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_keeps_all_or_nothing_at_the_ends(p: float) -> None:
    x = torch.randn(6, 5)
    assert torch.equal(dropped(x, 4, p, 1), torch.zeros_like(x) if p else x)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_that_is_none_is_refused(p: float) -> None:
    x = torch.zeros(1, 4, 4)
    assert code_of("fe_dropout", DropoutArguments(4, 1, 1, 0, 4, 0, p), x, x) == 1


def evenly(samples: int, elements: int, lanes: int, key: int, threads: int = 1,
           *, spread: float = 1.0, first: int = 0) -> torch.Tensor:  # fmt: skip
    """Even values of (samples, elements)."""
    packed = pack(torch.full((samples, elements), math.nan), lanes)
    d = DropoutArguments(lanes, len(packed), threads, first, elements, key, spread)
    call("fe_uniform", d, packed)
    return unpack(packed, samples)


def test_even_values_are_of_the_generator_for_any_lanes_and_threads() -> None:
    pi, key = (0x13198A2E, 0x03707344), 0x0370734413198A2E
    one = evenly(5, 7, 4, key)
    for sample in range(5):
        for element in range(7):
            word = threefry(pi, (element // 2, sample))[element % 2]
            assert float(one[sample, element]) == ((word >> 9) + 0.5) / 2**23
    for lanes, threads in ((4, 2), (8, 1), (16, 4)):
        assert torch.equal(evenly(5, 7, lanes, key, threads), one)
    assert torch.equal(evenly(1, 7, 4, key, first=3), one[3:4])
    assert torch.equal(evenly(5, 7, 4, key, spread=0.0), torch.full((5, 7), 0.5))


def test_shared_values_are_one_samples_for_every_sample() -> None:
    pi, key = (0x13198A2E, 0x03707344), 0x0370734413198A2E
    for lanes, threads, first in ((4, 1, 0), (8, 2, 3), (16, 4, 16)):
        packed = pack(torch.full((5, 21), math.nan), lanes)
        d = DropoutArguments(lanes, len(packed), threads, first, 21, key, 1.0)
        call("fe_shared_uniform", d, packed)
        found = unpack(packed, 5)
        assert (found == found[0]).all()
        for element in range(21):
            word = threefry(pi, (element // 2, 2**32 - 1))[element % 2]
            assert float(found[0, element]) == ((word >> 9) + 0.5) / 2**23


def test_shared_dropout_drops_the_same_elements_of_every_sample() -> None:
    x = torch.ones(19, 40)
    for lanes, threads in ((4, 1), (8, 2), (16, 4)):
        packed = pack(x, lanes)
        out = torch.full_like(packed, math.nan)
        d = DropoutArguments(lanes, len(packed), threads, 7, 40, 11, 0.5)
        call("fe_shared_dropout", d, packed, out)
        found = unpack(out, 19)
        assert (found == found[0]).all()
        assert set(found[0].tolist()) == {0.0, 2.0}
    bad = DropoutArguments(4, 1, 1, 0, 4, 0, 1.1)
    few = torch.zeros(1, 4, 4)
    assert code_of("fe_shared_dropout", bad, few, few) == 1
    assert code_of("fe_shared_uniform", bad, few) == 1
