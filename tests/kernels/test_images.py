"""Pools over any windows, borders, upsampling, transposed convolutions: as torch."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import ConvArguments
from edge_sdk.kernels.interface_images import (
    PadArguments,
    RegionPoolArguments,
    UpsampleArguments,
)
from edge_sdk.kernels.structure import Structure
from tests.kernels.native import (
    DTYPES,
    address,
    aligned,
    blocked,
    flat,
    library,
    near,
    padding,
    unblocked,
)

D = torch.float64
BOUNDED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
lanes_of = st.sampled_from([4, 8, 16])
samples_of = st.sampled_from([1, 3, 8, 17])
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def passed(
    name: str, descriptor: Any, x: torch.Tensor, y: torch.Tensor, lanes: int, *,
    reads_x: bool = False,
) -> None:  # fmt: skip
    """Compares one kernel pair with torch's y and the gradient through it."""
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    y.backward(dy)
    dtype, lib, samples = DTYPES["f64"][1], library("f64"), len(x)
    xb, db = blocked(x, lanes, dtype), blocked(dy, lanes, dtype)
    out, dx = aligned(db.shape, dtype), aligned(xb.shape, dtype)
    at = ctypes.byref(descriptor)
    lib.call(f"{name}_forward", at, address(xb), address(out))
    own = (address(xb),) if reads_x else ()
    lib.call(f"{name}_backward", at, *own, address(db), address(dx))
    near(unblocked(out, samples), y, 1e-12)
    near(unblocked(dx, samples), x.grad, 1e-12)
    assert not padding(dx, samples).any()


def image(samples: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Small integers and a little noise: ties in many windows."""
    gen = torch.Generator().manual_seed(seed)
    whole = torch.randint(-2, 3, (samples, 2, *size), generator=gen).to(D)
    return whole.requires_grad_()


def pool_arguments(
    x: torch.Tensor, y: torch.Tensor, lanes: int, **own: int
) -> RegionPoolArguments:
    planes = -(-len(x) // lanes) * x.shape[1]
    return RegionPoolArguments(lanes, planes, 2, *x.shape[2:], *y.shape[2:], **own)


@BOUNDED
@given(
    samples=samples_of, size=sizes, kernel=pairs, stride=pairs, pads=st.booleans(),
    dilation=pairs, ceil=st.booleans(), lanes=lanes_of, average=st.booleans(),
    counted=st.booleans(), divisor=st.sampled_from([0, 5]), seed=st.integers(0, 999),
)  # fmt: skip
def test_windows_that_leave_the_plane_pool_as_torch(
    samples: int, size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], pads: bool, dilation: tuple[int, int], ceil: bool,
    lanes: int, average: bool, counted: bool, divisor: int, seed: int,
) -> None:  # fmt: skip
    dilation = (1, 1) if average else dilation
    pad = (kernel[0] // 2, kernel[1] // 2) if pads else (0, 0)
    assume(
        all(
            n + 2 * p >= d * (k - 1) + 1
            for n, p, d, k in zip(size, pad, dilation, kernel, strict=True)
        )
    )
    x = image(samples, size, seed)
    if average:
        y = F.avg_pool2d(x, kernel, stride, pad, ceil, counted, divisor or None)
    else:
        # A dilated window may miss a narrow plane altogether: torch gives -inf there.
        y = F.max_pool2d(x, kernel, stride, pad, dilation, ceil)
        assume(bool(torch.isfinite(y).all()))
    d = pool_arguments(
        x, y, lanes, kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride[0],
        stride_w=stride[1], pad_h=pad[0], pad_w=pad[1], dilation_h=dilation[0],
        dilation_w=dilation[1], average=int(average), include_pad=int(counted),
        divisor=divisor if average else 0,
    )  # fmt: skip
    passed("fe_region_pool", d, x, y, lanes, reads_x=True)


@BOUNDED
@given(
    samples=samples_of, size=sizes, out=sizes, lanes=lanes_of, average=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_adaptive_pools_are_torchs(
    samples: int, size: tuple[int, int], out: tuple[int, int], lanes: int,
    average: bool, seed: int,
) -> None:  # fmt: skip
    x = image(samples, size, seed)
    own = F.adaptive_avg_pool2d if average else F.adaptive_max_pool2d
    y = own(x, out)
    d = pool_arguments(x, y, lanes, adaptive=1, average=int(average))
    passed("fe_region_pool", d, x, y, lanes, reads_x=True)


@BOUNDED
@given(
    samples=samples_of, size=sizes, border=st.tuples(*[st.integers(-2, 4)] * 4),
    mode=st.sampled_from(["constant", "reflect", "replicate", "circular"]),
    lanes=lanes_of, seed=st.integers(0, 999),
)  # fmt: skip
def test_borders_of_four_kinds_are_torchs(
    samples: int, size: tuple[int, int], border: tuple[int, ...], mode: str,
    lanes: int, seed: int,
) -> None:  # fmt: skip
    if mode != "constant":
        border = tuple(map(abs, border))
    reach = {"reflect": -1, "circular": 0}.get(mode, 99)
    height, width = size
    left, right, top, bottom = border
    assume(max(left, right) <= width + reach and max(top, bottom) <= height + reach)
    assume(width + left + right >= 1 and height + top + bottom >= 1)
    assume(min(width + min(left, 0), height + min(top, 0)) >= 1)
    x = image(samples, size, seed)
    value = {"value": 1.5} if mode == "constant" else {}
    y = F.pad(x, border, mode, **value)
    modes = {"constant": 0, "reflect": 1, "replicate": 2, "circular": 3}
    d = PadArguments(
        lanes, -(-samples // lanes) * 2, 2, (1, height, width), (0, top, left),
        (0, bottom, right), modes[mode], 1.5,
    )  # fmt: skip
    # A constant border fills padded lanes too: their values may be anything finite.
    passed("fe_pad", d, x, y, lanes)


@BOUNDED
@given(
    samples=samples_of, size=sizes, out=sizes, linear=st.booleans(),
    align=st.booleans(), lanes=lanes_of, seed=st.integers(0, 999),
    factor=st.sampled_from([0.0, 1.5, 2.0, 2.7]),
)  # fmt: skip
def test_upsampling_is_torchs(
    samples: int, size: tuple[int, int], out: tuple[int, int], linear: bool,
    align: bool, lanes: int, seed: int, factor: float,
) -> None:  # fmt: skip
    x = image(samples, size, seed)
    own: dict[str, Any] = {"scale_factor": factor} if factor else {"size": out}
    if linear:
        own |= {"mode": "bilinear", "align_corners": align}
    # Torch makes its tables of pixels in float32 for float32, as programs are.
    y32 = F.interpolate(x.float(), **own)
    y = F.interpolate(x, **own)
    assume(float((y32.double() - y).detach().abs().max()) < 1e-3)
    scale = 1 / factor if factor else 0.0
    d = UpsampleArguments(
        lanes, -(-samples // lanes) * 2, 2, *size, *y.shape[2:], int(linear),
        int(linear and align), scale, scale,
    )  # fmt: skip
    dtype, lib = DTYPES["f32"][1], library("f32")
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    y.backward(dy)
    xb, db = blocked(x, lanes, dtype), blocked(dy, lanes, dtype)
    result, dx = aligned(db.shape, dtype), aligned(xb.shape, dtype)
    at = ctypes.byref(d)
    lib.call("fe_upsample_forward", at, address(xb), address(result))
    lib.call("fe_upsample_backward", at, address(db), address(dx))
    near(unblocked(result, samples), y, 1e-5)
    near(unblocked(dx, samples), x.grad, 1e-5)


@BOUNDED
@given(
    samples=samples_of, size=sizes, kernel=pairs, stride=pairs, dilation=pairs,
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)), more=st.integers(0, 2),
    groups=st.integers(1, 2), density=st.sampled_from([0.0, 0.4, 1.0]),
    lanes=lanes_of, bias=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_a_sparse_transposed_conv_equals_autograd(
    samples: int, size: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], dilation: tuple[int, int], pad: tuple[int, int],
    more: int, groups: int, density: float, lanes: int, bias: bool, seed: int,
) -> None:  # fmt: skip
    extra = (min(more, stride[0] - 1), min(more, stride[1] - 1))
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            size, stride, pad, dilation, kernel, extra, strict=True
        )
    ]
    assume(min(out) >= 1)
    gen = torch.Generator().manual_seed(seed)
    shape = (3 * groups, 2, *kernel)
    pattern = torch.rand(shape, generator=gen) < density
    w = (torch.randn(shape, generator=gen, dtype=D) * pattern).requires_grad_()
    x = torch.randn((samples, 3 * groups, *size), generator=gen, dtype=D)
    x = x.requires_grad_()
    b = torch.randn(2 * groups, generator=gen, dtype=D).requires_grad_()
    y = F.conv_transpose2d(
        x, w, b if bias else None, stride, pad, extra, groups, dilation
    )
    dy = torch.randn(y.shape, generator=gen, dtype=D)
    y.backward(dy)
    dtype, lib = DTYPES["f64"][1], library("f64")
    structure = Structure.of(pattern.numpy(), groups=groups, dtype="float64")
    xb, db = blocked(x, lanes, dtype), blocked(dy, lanes, dtype)
    wb, bb = flat(w[pattern], dtype), flat(b, dtype) if bias else None
    yb, dx, dw = (aligned(a.shape, dtype) for a in (db, xb, wb))
    dbias = aligned((2 * groups,), dtype)
    d = ctypes.byref(
        ConvArguments(
            samples, lanes, len(xb), 2, *y.shape[2:], *stride, *pad, *dilation
        )
    )
    lib.call(
        "fe_conv_transpose_forward", structure.handle, d, address(xb), address(wb),
        address(bb), address(yb),
    )  # fmt: skip
    lib.call(
        "fe_conv_transpose_backward", structure.handle, d, address(xb), address(wb),
        address(db), address(dx), address(dw), address(dbias), 0,
    )  # fmt: skip
    near(unblocked(yb, samples), y, 1e-12)
    near(unblocked(dx, samples), x.grad, 1e-12)
    near(dw, w.grad[pattern], 1e-12)
    if bias:
        near(dbias, b.grad, 1e-12)


@pytest.mark.parametrize(
    ("name", "descriptor"),
    [
        (
            "fe_region_pool",
            RegionPoolArguments(4, 1, 1, 2, 2, 9, 1, 1, 1, 1, 1, 0, 0, 1, 1),
        ),
        ("fe_region_pool", RegionPoolArguments(5, 1, 1, 2, 2, 1, 1, adaptive=1)),
        ("fe_pad", PadArguments(4, 1, 1, (1, 2, 2), (0, 0, 2), (0, 0, 0), 1, 0.0)),
        ("fe_pad", PadArguments(4, 1, 1, (1, 2, 2), (0, 0, -2), (0, 0, 0), 0, 0.0)),
        ("fe_upsample", UpsampleArguments(4, 1, 1, 2, 2, 0, 4)),
    ],
)  # fmt: skip
def test_a_descriptor_out_of_range_is_refused(name: str, descriptor: Any) -> None:
    empty = aligned((16,), DTYPES["f32"][1]).ctypes.data
    with pytest.raises(EngineError, match="out of range"):
        library("f32").call(f"{name}_forward", ctypes.byref(descriptor), empty, empty)
