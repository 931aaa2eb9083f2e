"""A norm and the activation after it in one pass, and ReLU6 on a conv's way in."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import (
    ConvArguments,
    NormArguments,
    PrologueArguments,
)
from edge_sdk.kernels.structure import Structure
from tests.kernels.native import (
    DTYPES,
    Array,
    address,
    aligned,
    blocked,
    flat,
    library,
    near,
    padding,
    unblocked,
)

ACTIVATIONS: dict[int, Any] = {0: lambda x: x, 1: F.relu, 2: F.relu6}
D = torch.float64


def descriptor(
    x: Array, samples: int, groups: int, activation: int, threads: int = 1
) -> NormArguments:
    blocks, channels, *size, lanes = x.shape
    return NormArguments(
        samples, lanes, blocks, threads, channels, int(np.prod(size)), groups, 1,
        0.1, 1e-5, activation,
    )  # fmt: skip


def step(
    x: torch.Tensor, residual: torch.Tensor | None, dy: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor], precision: str, *, lanes: int,
    groups: int, activation: int, threads: int = 1,
) -> dict[str, Array]:  # fmt: skip
    dtype, lib, samples = DTYPES[precision][1], library(precision), len(x)
    xb, db = blocked(x, lanes, dtype), blocked(dy, lanes, dtype)
    rb = None if residual is None else blocked(residual, lanes, dtype)
    gamma, beta = (flat(w, dtype) for w in weights)
    channels, blocks = x.shape[1], len(xb)
    moments = (blocks, groups, lanes) if groups else (channels,)
    out = {
        "mean": aligned(moments, dtype),
        "istd": aligned(moments, dtype),
        "scale": aligned((blocks, channels, lanes), dtype),
        "shift": aligned((blocks, channels, lanes), dtype),
        "y": aligned(xb.shape, dtype),
        "dx": aligned(xb.shape, dtype),
        "dresidual": aligned(xb.shape, dtype),
        "dgamma": aligned((channels,), dtype),
        "dbeta": aligned((channels,), dtype),
        "mean_after": np.zeros(channels, dtype),
        "var_after": np.ones(channels, dtype),
    }
    at = {name: value.ctypes.data for name, value in out.items()}
    d = ctypes.byref(descriptor(xb, samples, groups, activation, threads))
    lib.call(
        "fe_norm_forward", d, address(xb), address(gamma), address(beta),
        at["mean_after"], at["var_after"], address(rb), at["mean"], at["istd"],
        at["scale"], at["shift"], at["y"],
    )  # fmt: skip
    lib.call(
        "fe_norm_backward", d, address(xb), at["y"] if activation else None,
        address(db), address(gamma), at["mean"], at["istd"], at["dx"],
        at["dresidual"], at["dgamma"], at["dbeta"],
    )  # fmt: skip
    if rb is None and not groups:
        again = {n: aligned(out[n].shape, dtype) for n in ("dx", "dgamma", "dbeta")}
        lib.call(
            "fe_norm_activation_backward", d, address(xb), address(db), address(gamma),
            at["mean"], at["istd"], at["scale"], at["shift"],
            *(a.ctypes.data for a in again.values()),
        )  # fmt: skip
        for name, value in again.items():
            assert value.tobytes() == out[name].tobytes(), name
    return out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    samples=st.sampled_from([2, 5, 16, 19]),
    pixels=st.sampled_from([1, 3, 35, 600]),
    lanes=st.sampled_from([4, 8, 16]),
    activation=st.integers(0, 2),
    groups=st.sampled_from([0, 0, 2]),
    residual=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_one_pass_equals_autograd_and_both_backwards_agree(
    samples: int, pixels: int, lanes: int, activation: int, groups: int,
    residual: bool, seed: int,
) -> None:  # fmt: skip
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn((samples, 4, pixels), generator=gen, dtype=D).requires_grad_()
    r = torch.randn(x.shape, generator=gen, dtype=D).requires_grad_()
    gamma = (torch.randn(4, generator=gen, dtype=D) * 4).requires_grad_()
    beta = torch.randn(4, generator=gen, dtype=D).requires_grad_()
    mean, var = torch.zeros(4, dtype=D), torch.ones(4, dtype=D)
    if groups:
        h = F.group_norm(x, groups, gamma, beta)
    else:
        h = F.batch_norm(x, mean, var, gamma, beta, training=True)
    y = ACTIVATIONS[activation](h + r if residual else h)
    dy = torch.randn(y.shape, generator=gen, dtype=D)
    y.backward(dy)
    out = step(
        x, r if residual else None, dy, (gamma, beta), "f64", lanes=lanes,
        groups=groups, activation=activation,
    )  # fmt: skip
    tolerance = 1e-10
    near(unblocked(out["y"], samples), y, tolerance)
    near(unblocked(out["dx"], samples), x.grad, tolerance * 100)
    assert not padding(out["dx"], samples).any()
    near(out["dgamma"], gamma.grad, tolerance)
    near(out["dbeta"], beta.grad, tolerance)
    if residual:
        near(unblocked(out["dresidual"], samples), r.grad, tolerance)
    if not groups:
        near(out["mean_after"], mean, tolerance)
        near(out["var_after"], var, tolerance)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("groups", [0, 2])
def test_any_number_of_threads_gives_the_same_bits(threads: int, groups: int) -> None:
    gen = torch.Generator().manual_seed(0)
    x, r, dy = (torch.randn((21, 6, 50), generator=gen) for _ in range(3))
    weights = torch.randn(6, generator=gen), torch.randn(6, generator=gen)
    one, many = (
        step(x, r, dy, weights, "f32", lanes=8, groups=groups, activation=2, threads=n)
        for n in (1, threads)
    )
    for name, value in one.items():
        assert value.tobytes() == many[name].tobytes(), name


def test_an_unknown_activation_is_refused() -> None:
    x = aligned((1, 2, 3, 4), np.dtype(np.float32))
    d = ctypes.byref(descriptor(x, 3, 0, 3))
    with pytest.raises(EngineError, match="out of range"):
        library("f32").call("fe_norm_apply", d, address(x), None, address(x))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activation", [1, 2])
def test_a_conv_takes_the_activation_on_the_way_in(
    kernel: int, activation: int
) -> None:
    gen = torch.Generator().manual_seed(kernel)
    x = (torch.randn((5, 3, 6, 7), generator=gen, dtype=D) * 5).requires_grad_()
    w = torch.randn((4, 3, kernel, kernel), generator=gen, dtype=D).requires_grad_()
    y = F.conv2d(ACTIVATIONS[activation](x), w, padding=kernel // 2)
    dy = torch.randn(y.shape, generator=gen, dtype=D)
    y.backward(dy)
    dtype, lib = DTYPES["f64"][1], library("f64")
    structure = Structure.of(np.ones(tuple(w.shape), np.bool_), dtype=D)
    xb, db, wb = blocked(x, 8, dtype), blocked(dy, 8, dtype), flat(w, dtype)
    yb, dx, dw = (aligned(a.shape, dtype) for a in (db, xb, wb))
    p = kernel // 2
    d = ctypes.byref(ConvArguments(5, 8, 1, 1, 6, 7, 1, 1, p, p, 1, 1))
    pro = ctypes.byref(PrologueArguments(relu=activation))
    lib.call(
        "fe_conv_forward", structure.handle, d, address(xb), pro, address(wb), None,
        address(yb),
    )  # fmt: skip
    lib.call(
        "fe_conv_backward", structure.handle, d, address(xb), pro, address(wb),
        address(db), address(dx), address(dw), None,
    )  # fmt: skip
    near(unblocked(yb, 5), y, 1e-12)
    near(unblocked(dx, 5), x.grad, 1e-12)
    near(dw, w.grad, 1e-12)
