"""RNN, LSTM and GRU kernels against float64 autograd of torch's own layers."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.interface import RecurrentArguments
from edge_sdk.kernels.structure import Structure
from tests.kernels.blocked_layers import SparseMatmul, pointer, to_blocked

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
CELLS = {"tanh": 0, "relu": 1, "lstm": 2, "gru": 3}
GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


def error(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    scale = float(expected.abs().max()) + 1e-9
    return float((found.double() - expected).abs().max()) / scale


def unblocked(x: Tensor, samples: int) -> Tensor:
    y = x.movedim(-1, 1)
    return y.reshape(-1, *y.shape[2:])[:samples]


class Recurrent(torch.autograd.Function):
    """One direction of one layer: (gates, values, bias, h0, c0) to (y, hn, cn)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, gates: Tensor, w: Tensor, bias: Tensor | None, h0: Tensor | None,
        c0: Tensor | None, structure: Structure, cell: int, reverse: bool, threads: int,
        accumulate: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        blocks, steps, _, lanes = gates.shape
        hidden = structure.shape[1]
        # The direction's place in a wider sequence: what is beside it must stay.
        features, offset = hidden + 3, 2
        ctx.arguments = RecurrentArguments(
            lanes, blocks, threads, cell, steps, hidden, reverse, features, offset,
            accumulate is not None,
        )  # fmt: skip
        kernels = structure.kernels
        values = kernels.library.fe_recurrent_saved(cell, hidden)
        y = torch.full((blocks, steps, features, lanes), 7.0, dtype=gates.dtype)
        saved = torch.empty((blocks, steps, values, lanes), dtype=gates.dtype)
        hn, cn = (torch.empty((blocks, hidden, lanes), dtype=gates.dtype) for _ in "hc")
        kernels.call(
            "fe_recurrent_forward", structure.handle, ctypes.byref(ctx.arguments),
            *map(pointer, (gates, w, bias, h0, c0, y, saved, hn, cn)),
        )  # fmt: skip
        assert (y[:, :, :offset] == 7).all()
        assert (y[:, :, offset + hidden :] == 7).all()
        ctx.structure, ctx.y, ctx.saved, ctx.accumulate = (
            structure,
            y,
            saved,
            accumulate,
        )
        ctx.given = (w, bias, h0, c0, gates)
        return y[:, :, offset : offset + hidden], hn, cn

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dhn: Tensor, dcn: Tensor) -> Any:  # type: ignore[override]
        w, bias, h0, c0, gates = ctx.given
        wide = torch.full_like(ctx.y, float("nan"))
        offset = ctx.arguments.offset
        wide[:, :, offset : offset + dy.shape[2]] = dy
        like = [
            None if t is None else torch.empty_like(t) for t in (gates, bias, h0, c0)
        ]
        dgates, db, dh0, dc0 = like
        dhn, dcn = dhn.contiguous(), dcn.contiguous()
        dw = torch.empty_like(w) if ctx.accumulate is None else ctx.accumulate
        ctx.structure.kernels.call(
            "fe_recurrent_backward", ctx.structure.handle, ctypes.byref(ctx.arguments),
            *map(pointer, (w, h0, c0, ctx.y, ctx.saved, wide, dhn, dcn, dgates, dw,
                           db, dh0, dc0)),
        )  # fmt: skip
        return dgates, dw, db, dh0, dc0, None, None, None, None, None


def layer_of(kind: str, *shape: int, **options: Any) -> nn.RNNBase:
    """torch's layer of a cell, in float64 with batch_first."""
    options |= {"batch_first": True, "dtype": torch.float64}
    if kind in {"tanh", "relu"}:
        return nn.RNN(*shape, nonlinearity=kind, **options)
    return {"lstm": nn.LSTM, "gru": nn.GRU}[kind](*shape, **options)


def ours(
    layer: nn.RNNBase, x: Tensor, states: list[Tensor | None], keep: dict[str, Tensor],
    kind: str, leaves: dict[str, Tensor], threads: int = 1,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
    """What `layer` computes, by the kernels; `leaves` takes the parameters used."""
    h0, c0 = states
    dtype = x.dtype
    finals: list[list[Tensor]] = [[], []]
    for depth in range(layer.num_layers):
        outputs = []
        for way in range(1 + layer.bidirectional):
            end = f"l{depth}" + "_reverse" * way
            structures = {}
            for name in ("weight_ih", "weight_hh"):
                pattern = keep[f"{name}_{end}"]
                value = getattr(layer, f"{name}_{end}").detach()[pattern]
                leaves[f"{name}_{end}"] = value.to(dtype).requires_grad_()
                structures[name] = Structure.of(pattern.numpy(), dtype=dtype)
            for name in ("bias_ih", "bias_hh") if layer.bias else ():
                value = getattr(layer, f"{name}_{end}").detach()
                leaves[f"{name}_{end}"] = value.to(dtype).requires_grad_()
            blocks, steps, features, lanes = x.shape
            gates = SparseMatmul.apply(
                x.reshape(blocks * steps, features, lanes),
                leaves[f"weight_ih_{end}"], leaves.get(f"bias_ih_{end}"),
                structures["weight_ih"],
            ).reshape(blocks, steps, -1, lanes)  # fmt: skip
            index = depth * (1 + layer.bidirectional) + way
            y, hn, cn = Recurrent.apply(
                gates, leaves[f"weight_hh_{end}"], leaves.get(f"bias_hh_{end}"),
                None if h0 is None else h0[index], None if c0 is None else c0[index],
                structures["weight_hh"], CELLS[kind], bool(way), threads, None,
            )  # fmt: skip
            outputs.append(y)
            finals[0].append(hn)
            finals[1].append(cn)
        x = torch.cat(outputs, 2)
    return x, finals[0], finals[1]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    inputs=st.sampled_from([1, 5, 12]),
    hidden=st.sampled_from([1, 3, 17, 70]),  # 70 units of LSTM: more than one run
    steps=st.sampled_from([1, 2, 5, 13]),
    samples=st.sampled_from([1, 5, 16, 37]),
    lanes=st.sampled_from([4, 8, 16]),
    layers=st.sampled_from([1, 2]),
    bidirectional=st.booleans(),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    bias=st.booleans(),
    initial=st.booleans(),
    threads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("kind", list(CELLS))
def test_outputs_states_and_gradients_equal_autograd(
    kind: str, dtype: torch.dtype, inputs: int, hidden: int, steps: int, samples: int,
    lanes: int, layers: int, bidirectional: bool, density: float, bias: bool,
    initial: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    layer = layer_of(
        kind, inputs, hidden, layers, bias=bias, bidirectional=bidirectional
    )
    keep = {}
    for name, parameter in layer.named_parameters():
        if name.startswith("weight"):
            keep[name] = torch.rand(parameter.shape) < density
            with torch.no_grad():
                parameter.mul_(keep[name])
    directions = layers * (1 + bidirectional)
    x = torch.randn((samples, steps, inputs), dtype=torch.float64, requires_grad=True)
    count = (2 if kind == "lstm" else 1) if initial else 0
    first = [
        torch.randn((directions, samples, hidden), dtype=torch.float64).requires_grad_()
        for _ in range(count)
    ]
    y, end = layer(x, (first[0] if count == 1 else tuple(first)) if first else None)
    ends = list(end) if kind == "lstm" else [end]
    g = torch.randn_like(y)
    gs = [torch.randn_like(e) for e in ends]
    torch.autograd.backward([y, *ends], [g, *gs])

    def blocked(t: Tensor) -> Tensor:
        return to_blocked(t.detach().to(dtype), lanes)

    xb = blocked(x).requires_grad_()
    states = [[blocked(s).requires_grad_() for s in f] for f in first]
    leaves: dict[str, Tensor] = {}
    yb, hn, cn = ours(layer, xb, [*states, None, None][:2], keep, kind, leaves, threads)
    found = [hn, cn][: len(ends)]
    torch.autograd.backward(
        [yb, *(f for each in found for f in each)],
        [blocked(g), *(blocked(t) for each in gs for t in each)],
    )
    tolerance = TOLERANCE[dtype] * (1 if dtype == torch.float64 else 3)
    assert error(unblocked(yb.detach(), samples), y.detach()) <= tolerance
    for mine, theirs in zip(found, ends, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert error(unblocked(one.detach(), samples), other.detach()) <= tolerance
    assert error(unblocked(xb.grad, samples), x.grad) <= tolerance
    padded = xb.shape[0] * lanes - samples
    assert not padded or not xb.grad[-1, ..., -padded:].any()
    for mine, theirs in zip(states, first, strict=True):
        for one, other in zip(mine, theirs.grad, strict=True):
            assert error(unblocked(one.grad, samples), other) <= tolerance
    for name, parameter in layer.named_parameters():
        expected = parameter.grad[keep[name]] if name in keep else parameter.grad
        assert error(leaves[name].grad, expected) <= tolerance, name


def step(kind: str, blocks: slice, threads: int, total: list[Tensor]) -> list[Tensor]:
    """Forward and backward of some of five blocks; gradients are added to `total`."""
    gen = torch.Generator().manual_seed(3)
    pattern = torch.rand((GATES[kind] * 90, 90), generator=gen) < 0.2
    structure = Structure.of(pattern.numpy())
    gates = torch.randn((5, 11, len(pattern), 16), generator=gen)[blocks]
    values = torch.randn(structure.nnz, generator=gen) / 4
    count = len(gates)
    arguments = RecurrentArguments(
        16, count, threads, CELLS[kind], 11, 90, False, 90, 0, accumulate=1
    )
    per_step = structure.kernels.library.fe_recurrent_saved(CELLS[kind], 90)
    saved = torch.zeros((count, 11, per_step, 16))
    y, dgates = torch.zeros((count, 11, 90, 16)), torch.zeros_like(gates)
    dy = torch.randn((5, 11, 90, 16), generator=gen)[blocks]
    dh0 = torch.zeros((count, 90, 16))
    structure.kernels.call(
        "fe_recurrent_forward", structure.handle, ctypes.byref(arguments),
        *map(pointer, (gates, values, total[1], None, None, y, saved, None, None)),
    )  # fmt: skip
    structure.kernels.call(
        "fe_recurrent_backward", structure.handle, ctypes.byref(arguments),
        *map(pointer, (values, None, None, y, saved, dy, None, None, dgates,
                       total[0], total[1], dh0, None)),
    )  # fmt: skip
    return [y, dgates, dh0]


@pytest.mark.parametrize("kind", list(CELLS))
def test_threads_and_one_block_at_a_time_give_the_same_bits(kind: str) -> None:
    def totals() -> list[Tensor]:
        return [torch.zeros(step_size(kind)), torch.zeros(GATES[kind] * 90)]

    whole = totals()
    expected = step(kind, slice(0, 5), 1, whole)
    for threads in (2, 3, 7):
        other = totals()
        found = step(kind, slice(0, 5), threads, other)
        for one, many in zip([*expected, *whole], [*found, *other], strict=True):
            assert torch.equal(one, many)
    singly = totals()
    bias = torch.zeros_like(singly[1])
    parts = []
    for first, last in pairwise(range(6)):
        # The bias of the forward pass is zero each time; its gradient adds up.
        each = [singly[0], torch.zeros_like(bias)]
        parts.append(step(kind, slice(first, last), 1, each))
        bias += each[1]
    for one, many in zip(
        expected, map(torch.cat, zip(*parts, strict=True)), strict=True
    ):
        assert torch.equal(one, many)
    assert torch.equal(whole[0], singly[0])
    assert torch.equal(whole[1], bias)


def step_size(kind: str) -> int:
    """Kept weights of `step`."""
    gen = torch.Generator().manual_seed(3)
    return int((torch.rand((GATES[kind] * 90, 90), generator=gen) < 0.2).sum())


@pytest.mark.parametrize(
    "change",
    [
        {"cell": 4}, {"cell": -1}, {"hidden": 0}, {"hidden": 5}, {"steps": 0},
        {"blocks": 0}, {"lanes": 5}, {"offset": -1}, {"offset": 1}, {"features": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_descriptor_out_of_range_is_refused(change: dict[str, int]) -> None:
    structure = Structure.of(np.ones((12, 4), np.bool_))
    fields = {
        "lanes": 4, "blocks": 1, "threads": 1, "cell": 3, "steps": 2, "hidden": 4,
        "reverse": 0, "features": 4, "offset": 0, "accumulate": 0,
    } | change  # fmt: skip
    arguments = RecurrentArguments(**fields)
    buffer = torch.zeros(4096)
    for name, count in (("forward", 9), ("backward", 13)):
        with pytest.raises(EngineError, match="out of range"):
            structure.kernels.call(
                f"fe_recurrent_{name}", structure.handle, ctypes.byref(arguments),
                *[pointer(buffer)] * count,
            )  # fmt: skip


def test_saturated_gates_and_nan_are_torchs() -> None:
    """Gates far beyond exp's range give 0 and 1; a NaN stays in its sample."""
    layer = layer_of("lstm", 4, 4, 1)
    x = torch.randn((8, 3, 4), dtype=torch.float64)
    x[1] *= 1e4
    x[2, 1, 0] = float("nan")
    y = layer(x)[0].detach()
    keep = {
        n: torch.ones_like(p, dtype=torch.bool) for n, p in layer.named_parameters()
    }
    found = ours(layer, to_blocked(x, 8), [None, None], keep, "lstm", {})[0]
    assert F.l1_loss(unblocked(found.detach(), 8)[:2], y[:2]) < 1e-12
    assert torch.equal(unblocked(found.detach(), 8).isnan(), y.isnan())
