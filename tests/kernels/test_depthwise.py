"""The depth-wise chain against float64 autograd: norms, activations, any geometry."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import ChannelNormArguments, DepthwiseArguments
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

EPS, MOMENTUM = 1e-5, 0.1
ACTIVATIONS: dict[int, Any] = {0: lambda x: x, 1: F.relu, 2: F.relu6}


@dataclass(frozen=True)
class Beside:
    """A norm and an activation before or after the convolution."""

    norm: bool
    activation: int
    affine: bool = True


@dataclass(frozen=True)
class Case:
    samples: int
    channels: int
    multiplier: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]
    lanes: int
    bias: bool
    before: Beside | None
    after: Beside | None
    training: bool = True
    density: float = 1.0
    seed: int = 0


@dataclass
class Norm:
    """One norm's tensors for torch (float64, with gradients) and for the kernels."""

    spec: Beside
    gamma: torch.Tensor
    beta: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    own: dict[str, Array] = field(default_factory=dict)

    def torch(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        if self.spec.norm:
            affine = (self.gamma, self.beta) if self.spec.affine else (None, None)
            x = F.batch_norm(x, self.mean, self.var, *affine, training, MOMENTUM, EPS)
        y: torch.Tensor = ACTIVATIONS[self.spec.activation](x)
        return y

    def arguments(self, dtype: np.dtype[Any]) -> ChannelNormArguments:
        channels = len(self.gamma)
        self.own = {
            "gamma": flat(self.gamma, dtype),
            "beta": flat(self.beta, dtype),
            "running_mean": flat(self.mean, dtype),
            "running_var": flat(self.var, dtype),
            "saved": aligned((4, channels), dtype),
            "dgamma": aligned((channels,), dtype),
            "dbeta": aligned((channels,), dtype),
        }
        names = set(self.own)
        if not self.spec.affine:
            names -= {"gamma", "beta", "dgamma", "dbeta"}
        pointers = {name: self.own[name].ctypes.data for name in names}
        return ChannelNormArguments(
            norm=int(self.spec.norm), activation=self.spec.activation,
            momentum=MOMENTUM, eps=EPS, **pointers,
        )  # fmt: skip


def norm_of(spec: Beside | None, channels: int, gen: torch.Generator) -> Norm | None:
    if spec is None:
        return None
    d = torch.float64
    return Norm(
        spec,
        (torch.randn(channels, generator=gen, dtype=d) * 2).requires_grad_(),
        torch.randn(channels, generator=gen, dtype=d).requires_grad_(),
        torch.randn(channels, generator=gen, dtype=d),
        torch.rand(channels, generator=gen, dtype=d) + 0.5,
    )


def fits(case: Case) -> bool:
    return all(
        n + 2 * p >= d * (k - 1) + 1
        for n, p, d, k in zip(
            case.size, case.pad, case.dilation, case.kernel, strict=True
        )
    )


def descriptor(case: Case, thread_count: int, **changes: int) -> DepthwiseArguments:
    values = {
        "samples": case.samples, "lanes": case.lanes,
        "blocks": -(-case.samples // case.lanes), "threads": thread_count,
        "channels": case.channels, "multiplier": case.multiplier,
        "in_h": case.size[0], "in_w": case.size[1],
        "kernel_h": case.kernel[0], "kernel_w": case.kernel[1],
        "stride_h": case.stride[0], "stride_w": case.stride[1],
        "pad_h": case.pad[0], "pad_w": case.pad[1],
        "dilation_h": case.dilation[0], "dilation_w": case.dilation[1],
        "training": int(case.training),
    }  # fmt: skip
    return DepthwiseArguments(**{**values, **changes})


@dataclass
class Run:
    y: Array
    dx: Array
    dw: Array
    db: Array
    before: Norm | None
    after: Norm | None

    def arrays(self) -> list[Array]:
        own = [n.own for n in (self.before, self.after) if n]
        names = ("running_mean", "running_var", "saved", "dgamma", "dbeta")
        return [self.y, self.dx, self.dw, self.db, *(o[n] for o in own for n in names)]


@dataclass
class Problem:
    """A case's tensors, and torch's answer to it in float64."""

    case: Case

    def __post_init__(self) -> None:
        case, d = self.case, torch.float64
        gen = torch.Generator().manual_seed(case.seed)
        self.gen = gen
        outputs = case.channels * case.multiplier
        self.x = (
            torch.randn(
                (case.samples, case.channels, *case.size), generator=gen, dtype=d
            )
            * 2
        )
        shape = (outputs, 1, *case.kernel)
        self.pattern = torch.rand(shape, generator=gen) < case.density
        self.w = torch.randn(shape, generator=gen, dtype=d) * self.pattern
        self.bias = torch.randn(outputs, generator=gen, dtype=d) * case.bias
        self.before = norm_of(case.before, case.channels, gen)
        self.after = norm_of(case.after, outputs, gen)

    def ours(self, precision: str, threads: int = 1, wants_dx: bool = True) -> Run:
        case, (torch_dtype, dtype, _) = self.case, DTYPES[precision]
        lib = library(precision)
        before, after = (
            norm and replace_norm(norm) for norm in (self.before, self.after)
        )
        x = blocked(self.x, case.lanes, dtype)
        w = flat(self.w[self.pattern], dtype)
        bias = flat(self.bias, dtype) if case.bias else None
        dy = blocked(self.dy, case.lanes, dtype)
        outputs = case.channels * case.multiplier
        y = aligned(dy.shape, dtype)
        dx = aligned(x.shape, dtype)
        dw, db = aligned(w.shape, dtype), aligned((outputs,), dtype)
        structure = None
        if case.density < 1:
            structure = Structure.of(
                self.pattern.numpy(), groups=case.channels, dtype=torch_dtype
            )
        handle = structure.handle if structure else None
        d = ctypes.byref(descriptor(case, threads))
        norms = [
            None if n is None else ctypes.byref(n.arguments(dtype))
            for n in (before, after)
        ]
        data = (address(x), address(w), address(bias))
        lib.call("fe_depthwise_forward", handle, d, *norms, *data, address(y))
        lib.call(
            "fe_depthwise_backward", handle, d, *norms, *data, address(dy),
            address(dx) if wants_dx else None, address(dw), address(db),
        )  # fmt: skip
        return Run(y, dx, dw, db, before, after)

    def reference(self) -> tuple[torch.Tensor, ...]:
        case = self.case
        x, w = self.x.clone().requires_grad_(), self.w.clone().requires_grad_()
        bias = self.bias.clone().requires_grad_()
        norms = [replace_norm(n) if n else None for n in (self.before, self.after)]
        a = norms[0].torch(x, case.training) if norms[0] else x
        y = F.conv2d(
            a, w, bias, case.stride, case.pad, case.dilation, case.channels,
        )  # fmt: skip
        z = norms[1].torch(y, case.training) if norms[1] else y
        self.dy = torch.randn(z.shape, generator=self.gen, dtype=z.dtype)
        z.backward(self.dy)
        self.norms = norms
        return z, x.grad, w.grad[self.pattern], bias.grad


def replace_norm(norm: Norm) -> Norm:
    return replace(
        norm,
        gamma=norm.gamma.detach().clone().requires_grad_(),
        beta=norm.beta.detach().clone().requires_grad_(),
        mean=norm.mean.clone(),
        var=norm.var.clone(),
        own={},
    )


def check(case: Case, precision: str) -> None:
    problem = Problem(case)
    z, dx, dw, db = problem.reference()
    run = problem.ours(precision)
    slack = 100 if case.before or case.after else 2  # a norm over few values cancels
    tolerance = DTYPES[precision][2] * slack
    near(unblocked(run.y, case.samples), z, tolerance)
    near(unblocked(run.dx, case.samples), dx, tolerance)
    assert not padding(run.dx, case.samples).any()
    assert np.isfinite(run.y).all()
    near(run.dw, dw, tolerance * 3)
    near(run.db, db, tolerance * 3)
    for own, norm in zip((run.before, run.after), problem.norms, strict=True):
        if own is None or norm is None or not norm.spec.norm:
            continue
        near(own.own["running_mean"], norm.mean, tolerance)
        near(own.own["running_var"], norm.var, tolerance)
        if norm.spec.affine:
            near(own.own["dgamma"], norm.gamma.grad, tolerance * 3)
            near(own.own["dbeta"], norm.beta.grad, tolerance * 3)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
beside = st.one_of(
    st.none(),
    st.builds(
        Beside,
        norm=st.booleans(),
        activation=st.integers(0, 2),
        affine=st.booleans(),
    ),
)
cases = st.builds(
    Case,
    samples=st.sampled_from([2, 3, 8, 13, 16, 21]),
    channels=st.integers(1, 3),
    multiplier=st.integers(1, 3),
    size=st.tuples(st.integers(1, 11), st.integers(3, 13)),
    kernel=st.sampled_from([(3, 3), (3, 3), (1, 3), (1, 5), (5, 5), (2, 4), (1, 1)]),
    stride=st.one_of(st.sampled_from([(1, 1), (2, 2)]), pairs),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.one_of(
        st.just((1, 1)), st.tuples(st.integers(1, 2), st.integers(1, 2))
    ),
    lanes=st.sampled_from([4, 8, 16]),
    bias=st.booleans(),
    before=beside,
    after=beside,
    training=st.booleans(),
    density=st.sampled_from([1.0, 1.0, 0.5, 0.0]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases)
@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_the_chain_equals_autograd(precision: str, case: Case) -> None:
    assume(fits(case))
    if precision == "f32":
        # Gradients of a norm over a few values, and an activation's edge, are rounding.
        smooth = {n.activation for n in (case.before, case.after) if n} <= {0}
        normless = not any(n and n.norm for n in (case.before, case.after))
        assume(normless or (smooth and case.samples * case.size[0] >= 60))
        assume(case.after is None or not case.after.activation)
    check(case, precision)


BLOCK = Case(
    samples=13, channels=5, multiplier=2, size=(9, 11), kernel=(3, 3), stride=(1, 1),
    pad=(1, 1), dilation=(1, 1), lanes=8, bias=True, before=Beside(True, 2),
    after=Beside(True, 2),
)  # fmt: skip


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_number_of_threads_gives_the_same_bits(
    threads: int, lanes: int, stride: int
) -> None:
    problem = Problem(replace(BLOCK, lanes=lanes, stride=(stride, stride)))
    problem.reference()
    one, many = problem.ours("f32"), problem.ours("f32", threads)
    for a, b in zip(one.arrays(), many.arrays(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_blocks_one_at_a_time_give_the_same_bits() -> None:
    """Without a norm the samples are independent: micro-batches change nothing."""
    case = replace(BLOCK, samples=24, before=Beside(False, 2), after=Beside(False, 1))
    problem = Problem(case)
    problem.reference()
    whole = problem.ours("f32")
    dtype = DTYPES["f32"][1]
    lib = library("f32")
    x, dy = blocked(problem.x, 8, dtype), blocked(problem.dy, 8, dtype)
    w, bias = flat(problem.w, dtype), flat(problem.bias, dtype)
    y, dx = aligned(dy.shape, dtype), aligned(x.shape, dtype)
    dw, db = aligned(w.shape, dtype), aligned(bias.shape, dtype)
    norms = [ctypes.byref(ChannelNormArguments(activation=n)) for n in (2, 1)]
    for b in range(3):
        d = ctypes.byref(
            descriptor(case, 1, samples=8, blocks=1, accumulate=int(b > 0))
        )
        data = (address(x[b]), address(w), address(bias))
        lib.call("fe_depthwise_forward", None, d, *norms, *data, address(y[b]))
        lib.call(
            "fe_depthwise_backward", None, d, *norms, *data, address(dy[b]),
            address(dx[b]), address(dw), address(db),
        )  # fmt: skip
    assert y.tobytes() == whole.y.tobytes()
    assert dx.tobytes() == whole.dx.tobytes()
    assert dw.tobytes() == whole.dw.tobytes()
    assert db.tobytes() == whole.db.tobytes()


def test_the_input_gradient_may_be_left_out() -> None:
    problem = Problem(BLOCK)
    problem.reference()
    whole, without = problem.ours("f32"), problem.ours("f32", wants_dx=False)
    assert np.isnan(without.dx).all()
    for a, b in zip(whole.arrays(), without.arrays(), strict=True):
        assert a is whole.dx or a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_h": 12}, {"stride_w": 0}, {"lanes": 5}, {"blocks": 7}, {"channels": 0},
        {"pad_h": -1}, {"dilation_w": 0}, {"threads": 0},
        {"in_w": 2**30, "in_h": 2**10},
    ],
)  # fmt: skip
def test_a_descriptor_out_of_range_is_refused(change: dict[str, int]) -> None:
    d = ctypes.byref(descriptor(replace(BLOCK, before=None, after=None), 1, **change))
    empty = aligned((16,), np.dtype(np.float32)).ctypes.data
    with pytest.raises(EngineError, match="fe_depthwise"):
        library("f32").call(
            "fe_depthwise_forward", None, d, None, None, empty, empty, None, empty
        )
