"""Losses beside torch in float64: values, gradients, labels that cannot be used."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from blocked import DTYPES, blocks_of, call, code_of, near, pack, unpack
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.kernels.interface_loss import (
    ClassLossArguments,
    ValueLossArguments,
)

BAD_ARGUMENT, BAD_LABEL, NOT_FINITE = 1, 4, 5
IGNORE = -100
# Kinds by name, in the order of the header's enumeration.
VALUE_LOSSES = (
    *("squared_error", "absolute_error", "smooth_l1", "huber"),
    "binary_cross_entropy",
)


class Total:
    """What a forward pass adds to, and the sample that it names."""

    def __init__(self) -> None:
        self.sum, self.sample = ctypes.c_double(), ctypes.c_int32(-7)
        self.arguments = (ctypes.byref(self.sum), ctypes.byref(self.sample))


def class_loss(
    x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None, *, lanes: int,
    threads: int = 1, smoothing: float = 0.0, nll: bool = False,
) -> tuple[float, torch.Tensor]:  # fmt: skip
    """The mean over weights and its gradient; x (N, C, P), labels (N, P)."""
    samples, classes, positions = x.shape
    blocks = blocks_of(samples, lanes)
    d = ClassLossArguments(
        samples, lanes, blocks, threads, classes, positions, int(nll), IGNORE, smoothing
    )
    packed, marks = pack(x, lanes), pack(labels.to(x.dtype), lanes)
    divisor, total = Total(), Total()
    call("fe_class_loss_weight", d, marks, weight, *divisor.arguments)
    logs = None if nll else torch.full_like(marks, math.nan)
    call("fe_class_loss_forward", d, packed, marks, weight, logs, *total.arguments)
    assert (divisor.sample.value, total.sample.value) == (-1, -1)
    dx = torch.full_like(packed, math.nan)
    scale = 1 / divisor.sum.value if divisor.sum.value else 0.0
    call("fe_class_loss_backward", d, packed, marks, weight, logs, scale, dx)
    if samples % lanes:
        assert not dx[-1][..., samples % lanes :].any()
    return total.sum.value / (divisor.sum.value or math.nan), unpack(dx, samples)


def labels_of(
    samples: int, positions: int, classes: int, gen: torch.Generator
) -> torch.Tensor:
    labels = torch.randint(classes, (samples, positions), generator=gen)
    ignored = torch.rand(samples, positions, generator=gen) < 0.2
    return torch.where(ignored, IGNORE, labels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nll", [False, True], ids=["cross-entropy", "nll"])
@given(
    samples=st.integers(1, 19),
    classes=st.integers(1, 12),
    positions=st.integers(1, 6),
    lanes=st.sampled_from([4, 8, 16]),
    threads=st.sampled_from([1, 2, 4]),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_a_class_loss_is_torchs_with_its_gradient(
    nll: bool, dtype: torch.dtype, samples: int, classes: int, positions: int,
    lanes: int, threads: int, weighted: bool, smoothing: float, seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(samples, classes, positions, generator=gen)).to(dtype)
    labels = labels_of(samples, positions, classes, gen)
    weight = torch.rand(classes, generator=gen).to(dtype) + 0.1 if weighted else None
    own = x.double().requires_grad_()
    wide = None if weight is None else weight.double()
    if nll:
        expected = F.nll_loss(own, labels, wide, ignore_index=IGNORE)
    else:
        expected = F.cross_entropy(own, labels, wide, label_smoothing=smoothing)
    expected.backward()
    loss, dx = class_loss(
        x, labels, weight, lanes=lanes, threads=threads, nll=nll,
        smoothing=0.0 if nll else smoothing,
    )  # fmt: skip
    near(torch.tensor(loss, dtype=dtype), expected.nan_to_num(math.nan)) if bool(
        (labels != IGNORE).any()
    ) else None
    assert own.grad is not None
    near(dx, own.grad)


def test_large_logits_neither_overflow_nor_lose_the_gradient() -> None:
    x = torch.tensor([[1e4, -1e4, 0.0], [3e38, 0.0, -3e38], [-500.0, -501.0, -500.0]])
    labels = torch.tensor([[0], [0], [1]])
    own = x.double().requires_grad_()
    expected = F.cross_entropy(own, labels[:, 0])
    expected.backward()
    loss, dx = class_loss(x[:, :, None], labels, None, lanes=4)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert own.grad is not None
    near(dx[..., 0], own.grad)


@pytest.mark.parametrize("wrong", [-1, 5, 7.5, math.nan, math.inf, -99, 2**31])
def test_a_label_that_is_no_class_names_its_sample(wrong: float) -> None:
    labels = torch.zeros(11, 3)
    labels[9, 1] = labels[10, 0] = wrong
    marks, x = pack(labels, 4), pack(torch.randn(11, 5, 3), 4)
    d = ClassLossArguments(11, 4, 3, 2, 5, 3, 0, IGNORE, 0.0)
    logs, total = torch.empty_like(marks), Total()
    for name, arguments in (
        ("fe_class_loss_weight", (marks, None)),
        ("fe_class_loss_forward", (x, marks, None, logs)),
    ):
        assert code_of(name, d, *arguments, *total.arguments) == BAD_LABEL
        assert total.sample.value == 9


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_prediction_that_is_not_finite_names_its_sample(value: float) -> None:
    x = torch.randn(11, 5, 1)
    x[6, 2] = value
    marks = pack(torch.zeros(11, 1), 8)
    d = ClassLossArguments(11, 8, 2, 1, 5, 1, 0, IGNORE, 0.0)
    logs, total = torch.empty_like(marks), Total()
    arguments = (d, pack(x, 8), marks, None, logs, *total.arguments)
    assert code_of("fe_class_loss_forward", *arguments) == NOT_FINITE
    assert total.sample.value == 6


def reference(kind: str, x: Any, y: Any, delta: float, weight: Any) -> torch.Tensor:
    match kind:
        case "squared_error":
            return F.mse_loss(x, y)
        case "absolute_error":
            return F.l1_loss(x, y)
        case "smooth_l1":
            return F.smooth_l1_loss(x, y, beta=delta)
        case "huber":
            return F.huber_loss(x, y, delta=delta)
        case _:
            return F.binary_cross_entropy_with_logits(x, y, pos_weight=weight)


def value_loss(
    kind: str, x: torch.Tensor, y: torch.Tensor, delta: float,
    weight: torch.Tensor | None, *, lanes: int, threads: int = 1,
) -> tuple[float, torch.Tensor]:  # fmt: skip
    """The mean and its gradient, of (N, count)."""
    samples, count = x.shape
    blocks, index = blocks_of(samples, lanes), VALUE_LOSSES.index(kind)
    d = ValueLossArguments(index, samples, lanes, blocks, threads, count, delta)
    one, two, total = pack(x, lanes), pack(y, lanes), Total()
    call("fe_value_loss_forward", d, one, two, weight, *total.arguments)
    dx = torch.full_like(one, math.nan)
    call("fe_value_loss_backward", d, one, two, weight, 1 / x.numel(), dx)
    if samples % lanes:
        assert not dx[-1][..., samples % lanes :].any()
    return total.sum.value / x.numel(), unpack(dx, samples)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", VALUE_LOSSES)
@given(
    samples=st.integers(1, 19),
    count=st.integers(1, 150),
    lanes=st.sampled_from([4, 8, 16]),
    threads=st.sampled_from([1, 2, 4]),
    delta=st.sampled_from([0.3, 1.0, 4.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_value_loss_is_torchs_with_its_gradient(
    kind: str, dtype: torch.dtype, samples: int, count: int, lanes: int, threads: int,
    delta: float, weighted: bool, seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(samples, count, generator=gen)).to(dtype)
    y = torch.rand(samples, count, generator=gen).to(dtype)
    y[0, 0] = x[0, 0]  # no error at all: the corner of an absolute value
    weight = torch.rand(count, generator=gen).to(dtype) * 3 if weighted else None
    if kind != "binary_cross_entropy":
        weight = None
    own, wide = x.double().requires_grad_(), weight
    expected = reference(
        kind, own, y.double(), delta, None if wide is None else wide.double()
    )
    expected.backward()
    loss, dx = value_loss(kind, x, y, delta, weight, lanes=lanes, threads=threads)
    near(torch.tensor(loss, dtype=dtype), expected)
    assert own.grad is not None
    near(dx, own.grad)


def test_far_logits_of_a_binary_cross_entropy_keep_their_term() -> None:
    x = torch.tensor([[-200.0, 200.0, -20.0, 20.0, 0.0]])
    y = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.5]])
    loss, dx = value_loss("binary_cross_entropy", x, y, 1, None, lanes=4)
    own = x.double().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(own, y.double())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert own.grad is not None
    near(dx, own.grad)


@pytest.mark.parametrize("kind", VALUE_LOSSES)
@pytest.mark.parametrize("where", ["prediction", "target"])
def test_a_value_that_is_not_a_number_names_its_sample(kind: str, where: str) -> None:
    x, y = torch.randn(10, 3), torch.rand(10, 3)
    (x if where == "prediction" else y)[7, 1] = math.nan
    d = ValueLossArguments(VALUE_LOSSES.index(kind), 10, 4, 3, 2, 3, 1.0)
    total = Total()
    arguments = (d, pack(x, 4), pack(y, 4), None, *total.arguments)
    assert code_of("fe_value_loss_forward", *arguments) == NOT_FINITE
    assert total.sample.value == 7


def test_a_sum_has_the_same_bits_for_any_threads_and_block_by_block() -> None:
    x, y = pack(torch.randn(29, 77), 4), pack(torch.randn(29, 77), 4)
    sums = set()
    for threads in (1, 2, 4):
        total, d = Total(), ValueLossArguments(0, 29, 4, 8, threads, 77, 0.0)
        call("fe_value_loss_forward", d, x, y, None, *total.arguments)
        sums.add(total.sum.value)
    total = Total()
    for block in range(8):
        d = ValueLossArguments(0, min(4, 29 - 4 * block), 4, 1, 1, 77, 0.0)
        call("fe_value_loss_forward", d, x[block], y[block], None, *total.arguments)
    assert sums == {total.sum.value}


def test_a_loss_that_makes_no_sense_is_refused() -> None:
    x, total = torch.zeros(1, 4, 4), Total()
    for kind, samples, delta in ((9, 4, 1.0), (0, 9, 1.0), (0, 0, 1.0), (3, 4, 0.0)):
        d = ValueLossArguments(kind, samples, 4, 1, 1, 4, delta)
        code = code_of("fe_value_loss_forward", d, x, x, None, *total.arguments)
        assert code == BAD_ARGUMENT
    for classes, smoothing in ((0, 0.0), (4, 1.5), (4, math.nan)):
        d = ClassLossArguments(4, 4, 1, 1, classes, 1, 0, IGNORE, smoothing)
        arguments = (d, x, x, None, x, *total.arguments)
        assert code_of("fe_class_loss_forward", *arguments) == BAD_ARGUMENT
