"""The dense-masked engine on another device: everything is moved, and comes back.

Without a GPU the same code runs with the processor as "another" device, and on torch's
meta device, where a tensor that was left behind shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edge_sdk.device.probe.steps import measure_steps
from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.local import train
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.program_engine import choice
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.torch_engine import placement
from edge_sdk.training.torch_engine.dense import DenseModel
from edge_sdk.training.torch_engine.placement import Placement, placement_of
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen, Regrow
from edge_sdk.wire.values import Values, pack_values

HERE = Placement(torch.device("cpu"))
GPU = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
)
RNG = np.random.default_rng(0)
EXAMPLES = Examples(
    RNG.normal(size=(24, 3, 8, 8)).astype(np.float32), RNG.integers(0, 5, 24)
)


class Network(nn.Module):
    """Batch norm, a frozen layer, a buffer of whole numbers, a lone parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("order", torch.arange(7, -1, -1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.first(x)))
        y = F.relu(self.second(y)).mean((2, 3))[:, self.order]
        out: torch.Tensor = self.head(self.frozen(y) * self.scale)
        return out


TASK = Task(
    name="placed", model=Network, loss=F.cross_entropy, input_shape=(3, 8, 8),
    train_data=lambda _: EXAMPLES,
)  # fmt: skip
PLAN = Training(2, 8, 0.05, 0.9, 1e-3, seed=3)


def masked(where: Placement | None) -> MaskedModel:
    torch.manual_seed(1)
    model, rng = Network(), np.random.default_rng(1)
    names = ("first.weight", "second.weight", "head.weight")
    shapes = {n: tuple(model.get_parameter(n).shape) for n in names}
    mask = Mask({n: rng.random(shape) < 0.4 for n, shape in shapes.items()})
    return masked_model(model, mask, placement=where)


def dense(where: Placement | None) -> DenseModel:
    torch.manual_seed(1)
    mask = Mask({"first.weight": np.ones((8, 3, 3, 3), np.bool_)})
    return DenseModel(Network(), mask, placement=where)


def trained(model: MaskedModel | DenseModel, *, micro_batch: int = 0) -> dict[str, Any]:
    train(model, TASK, EXAMPLES, PLAN, micro_batch=micro_batch, ghost_norm=True)
    return {**model.values(), **model.dense()}


@pytest.mark.parametrize("make", [masked, dense])
@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_an_update_is_the_processor_s(make: Any, micro_batch: int, device: str) -> None:
    where = HERE if device == "cpu" else placement_of(device)
    theirs = trained(make(None), micro_batch=micro_batch)
    ours = trained(make(where), micro_batch=micro_batch)
    assert ours.keys() == theirs.keys()
    for name, entry in theirs.items():
        np.testing.assert_allclose(ours[name], entry, rtol=1e-4, atol=2e-5)
    assert ours["norm.num_batches_tracked"] > 0
    assert not np.allclose(ours["norm.running_mean"], 0)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_predictions_come_back_and_parameters_stay(device: str) -> None:
    model = masked(HERE if device == "cpu" else placement_of(device)).train(mode=False)
    out = model(torch.from_numpy(EXAMPLES.inputs))
    assert out.device.type == "cpu"
    assert all(p.device.type == "cpu" for p in model.parameters())
    before = masked(None).train(mode=False)(torch.from_numpy(EXAMPLES.inputs))
    torch.testing.assert_close(out, before, rtol=1e-4, atol=1e-5)


class Devices(TorchDispatchMode):
    """Records the devices of every tensor that an operation of torch's is given."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tensors = [t for t in _leaves((args, kwargs or {})) if t.dim() > 0]
        if len({t.device.type for t in tensors}) > 1 and "_to_copy" not in str(func):
            self.mixed.append(str(func))
        return func(*args, **(kwargs or {}))


def _leaves(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _leaves(list(found.values()))
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _leaves(one)


@pytest.mark.parametrize("make", [masked, dense])
def test_nothing_is_left_behind(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What comes back of the meta device has no content: it stays there for this test.
    monkeypatch.setattr(placement, "HOST", torch.device("meta"))
    model = make(Placement(torch.device("meta")))
    model.train(mode=False)  # batch norm's statistics cannot come back of nowhere
    with Devices() as seen:
        out = model(torch.from_numpy(EXAMPLES.inputs))
    assert out.device.type == "meta"
    assert out.shape == (24, 5)
    assert seen.mixed == []


def test_autocast_computes_in_bfloat16_and_gives_float32() -> None:
    inputs = torch.from_numpy(EXAMPLES.inputs)
    plain = masked(HERE).train(mode=False)(inputs)
    soft = masked(Placement(torch.device("cpu"), torch.bfloat16)).train(mode=False)
    out = soft(inputs)
    assert out.dtype == torch.float32
    assert 1e-5 < float(((out - plain).norm() / plain.norm()).detach()) < 0.05
    assert "bfloat16" in Placement(torch.device("cpu"), torch.bfloat16).told()


@pytest.mark.parametrize("engine", ["masked", "auto"])
def test_a_device_s_orders_are_trained_there(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def one(wanted: str, *, autocast: bool) -> Placement | None:
        seen.append((wanted, autocast))
        return HERE if wanted == "cuda" else None

    monkeypatch.setattr(placement, "placement_of", one)
    layers = layers_of(Network())
    counts = exact_counts(uniform(layers), layers, 0.3)
    mask, state = draw(layers, counts, 5), initial_state(TASK, 1)
    rest = {n: a for n, a in state.items() if n not in mask}
    start = Values(mask.digest, {n: state[n][mask[n]] for n in mask}, rest)
    base, found = pack_values(start, mask), []
    for device in ("cpu", "cuda"):
        wanted = "masked" if device == "cpu" else engine
        runner = TaskRunner(TASK, EXAMPLES, wanted, device=device)
        for rule in (Frozen(), Regrow(0.3)):
            order = TaskOrder(
                id="1-a", round_no=1, density=0.3, base=manifest_of(base), rule=rule,
                mask=MaskRecipe(5, dict(counts), mask.digest), training=PLAN,
                ttl_ms=1000, shard=0, codec="fp32", moves=isinstance(rule, Regrow),
            )  # fmt: skip
            update = runner.run(order, base, lambda: False)
            found.append(update.offer)
        if device == "cuda":
            assert runner.engine == "masked"
            assert "dense kernels on cpu" in runner._models._model.reason  # type: ignore[attr-defined]
    assert seen == [("cpu", False), ("cuda", False)]
    for ours, theirs in zip(found[2:], found[:2], strict=True):
        assert ours.norm == pytest.approx(theirs.norm, rel=1e-3)
        assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], rel=1e-3)


def test_a_gpu_s_memory_counts_where_it_is_the_board_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Placement, "peak_mib", lambda _: 1000.0)
    found = {}
    for shared in (True, False):
        monkeypatch.setattr(Placement, "shares_ram", lambda _, shared=shared: shared)
        found[shared] = measure_steps(
            TASK, EXAMPLES, 0.3, batch=8, engine="masked", seconds=0.1, placement=HERE
        )
    assert "dense kernels on cpu" in found[True].reason
    if found[True].peak_mib is not None and found[False].peak_mib is not None:
        assert found[True].peak_mib - found[False].peak_mib > 900


def test_a_board_without_torch_names_what_the_gpu_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "torch_is_here", lambda: False)
    with pytest.raises(EngineError, match="is not installed here") as caught:
        TaskRunner(TASK, EXAMPLES, "auto", device="cuda")
    assert "JetPack" in caught.value.help


def test_settings_name_a_device_or_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert placement_of("cpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement_of("auto") is None
    for wanted in ("cuda", "cuda:0"):
        with pytest.raises(EngineError, match="finds no GPU here") as caught:
            placement_of(wanted)
        assert "JetPack" in caught.value.help
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert placement_of("auto") == Placement(torch.device("cuda"))
    with pytest.raises(EngineError, match="finds 1 GPUs"):
        placement_of("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a Maxwell GPU")
    with pytest.raises(EngineError, match="a Maxwell GPU has no bfloat16"):
        placement_of("cuda", autocast=True)
