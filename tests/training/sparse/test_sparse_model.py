"""`SparseModel` as the training loop sees it, accumulation and kept activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask
from edge_sdk.training.accumulate import accumulate
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.sparse import keep_activations, sparse_model
from edge_sdk.training.sparse.layout import FromBlocked, ToBlocked, lane_width


def test_values_and_dense_entries_round_trip(zoo, model_name: str) -> None:
    model = zoo.model(model_name, torch.float32)
    mask = zoo.mask(model)
    own: TrainingModel = sparse_model(model, mask)
    values, dense = own.values(), own.dense()
    assert list(values) == list(mask)
    state = model.state_dict()
    assert set(values) | set(dense) == set(state)
    for name, array in values.items():
        assert array.tolist() == state[name][torch.tensor(mask[name])].tolist()
    changed = (
        {n: a + 1 for n, a in values.items()},
        {n: a * 0 for n, a in dense.items()},
    )
    own.load(*changed)
    assert all((own.values()[n] == a).all() for n, a in changed[0].items())
    assert all((own.dense()[n] == a).all() for n, a in changed[1].items())
    assert {p.numel() for p in own.parameters()} >= {len(v) for v in values.values()}


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "swapped"])
def test_entries_that_do_not_fit_change_nothing(zoo, fault: str) -> None:
    model = zoo.model("mixed", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    values, dense = own.values(), own.dense()
    before = {n: a.copy() for n, a in values.items()}
    first = next(iter(values))
    values = {n: a + 1 for n, a in values.items()}
    if fault == "missing":
        del values[first]
    elif fault == "unknown":
        dense["more"] = np.zeros(1)
    elif fault == "shape":
        values[first] = values[first][1:]
    else:
        dense[first] = values.pop(first)
    with pytest.raises(EngineError):
        own.load(values, dense)
    assert all((own.values()[n] == a).all() for n, a in before.items())


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
@pytest.mark.parametrize("name", ["mnistnet", "resnet-group-norm", "mixed"])
def test_micro_batches_give_the_same_update(zoo, name: str, micro_batch: int) -> None:
    model = zoo.model(name)
    own = sparse_model(model, zoo.mask(model))
    x, y = zoo.batch(name, 13)
    loss = F.cross_entropy(own(x), y)
    loss.backward()
    whole = gradients(own.module)
    own.module.zero_grad()
    total = accumulate(own, F.cross_entropy, x, y, micro_batch=micro_batch)
    assert total == pytest.approx(float(loss.detach()), rel=1e-12)
    for ours, reference in zip(gradients(own.module), whole, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-12)


def test_training_batch_norm_refuses_micro_batches_and_names_the_layer(zoo) -> None:
    model = zoo.model("resnet", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    x, y = zoo.batch("resnet", 8, torch.float32)
    with pytest.raises(EngineError, match="layer bn1: batch norm"):
        accumulate(own, F.cross_entropy, x, y, micro_batch=4)
    accumulate(own, F.cross_entropy, x, y, micro_batch=8)  # one part is the batch
    accumulate(own, F.cross_entropy, x, y, micro_batch=4, ghost_norm=True)


def test_frozen_batch_norm_accumulates_exactly(zoo) -> None:
    model = zoo.model("resnet")
    own = sparse_model(model, zoo.mask(model)).train(False)
    x, y = zoo.batch("resnet", 6)
    F.cross_entropy(own(x), y).backward()
    whole = gradients(own.module)
    own.module.zero_grad()
    accumulate(own, F.cross_entropy, x, y, micro_batch=4)
    for ours, reference in zip(gradients(own.module), whole, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [0, -1])
def test_no_samples_per_part_is_refused(zoo, micro_batch: int) -> None:
    model = zoo.model("mixed", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    with pytest.raises(EngineError, match="cannot split"):
        accumulate(
            own, F.cross_entropy, *zoo.batch("mixed", 4, torch.float32),
            micro_batch=micro_batch,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["resnet", "resnet-group-norm", "vgg"])
def test_bfloat16_activations_change_gradients_by_their_rounding_only(
    zoo, name: str
) -> None:
    model = zoo.model(name, torch.float32)
    own = sparse_model(model, zoo.mask(model)).train(name != "vgg")  # dropout
    x, y = zoo.batch(name, 20, torch.float32)
    exact_out = own(x)
    F.cross_entropy(exact_out, y).backward()
    exact = gradients(own.module)
    own.module.zero_grad()
    keep_activations(own.module, torch.bfloat16)
    out = own(x)
    assert torch.equal(out, exact_out)
    F.cross_entropy(out, y).backward()
    for ours, reference in zip(gradients(own.module), exact, strict=True):
        assert float((ours - reference).norm()) <= 0.1 * float(reference.norm()) + 1e-3


def test_other_dtypes_for_activations_are_refused(zoo) -> None:
    model = zoo.model("mixed", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    with pytest.raises(EngineError, match="float16"):
        keep_activations(own.module, torch.float16)


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(1, 70), features=st.integers(1, 9))
def test_entering_and_leaving_the_layout_is_the_identity(
    samples: int, features: int
) -> None:
    from edge_sdk.training.sparse.layout import Batch

    batch = Batch()
    into, out = ToBlocked(batch), FromBlocked(batch)
    for shape in ((samples, features), (samples, features, 2, 3)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(samples))
        assert torch.equal(out(into(x)), x)


def test_small_batches_get_narrow_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASH_EDGE_LANES", raising=False)
    assert lane_width(32) == 16
    assert lane_width(16) == 16
    monkeypatch.setenv("FLASH_EDGE_LANES", "4")
    assert lane_width(32) == 4
    monkeypatch.setenv("FLASH_EDGE_LANES", "5")
    with pytest.raises(EngineError, match="FLASH_EDGE_LANES"):
        lane_width(32)


def test_no_gradients_are_kept_when_nobody_asks(zoo) -> None:
    model = zoo.model("mixed", torch.float32)
    own = sparse_model(model, zoo.mask(model))
    x, _ = zoo.batch("mixed", 4, torch.float32)
    with torch.no_grad():
        assert not own(x).requires_grad


def test_a_mask_without_layers_is_dense_training(zoo) -> None:
    model = zoo.model("mixed", torch.float32)
    own = sparse_model(model, Mask({}))
    assert own.values() == {}
    assert set(own.dense()) == set(model.state_dict())


class Spare(nn.Module):
    """Counters, an empty buffer, a spare layer with a second name: none is called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.register_buffer("classes", torch.tensor(4))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("table", torch.ones(3), persistent=False)
        self.body.register_buffer("seen", torch.zeros(2, dtype=torch.uint8))
        self.spare = nn.ModuleDict({"norm": nn.LayerNorm(4)})
        self.again = self.spare["norm"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        return found


def test_entries_that_the_forward_never_uses_stay_in_the_state() -> None:
    model = Spare()
    rng = np.random.default_rng(0)
    mask = Mask(
        {n: rng.random(model.state_dict()[n].shape) < 0.4 for n in SPARE_LAYERS}
    )
    own = sparse_model(model, mask)
    values, dense = own.values(), own.dense()
    assert set(values) | set(dense) == set(model.state_dict())
    own.load(values, {n: a + 1 for n, a in dense.items()})
    assert own.dense()["classes"] == 5
    assert (own.dense()["spare.norm.bias"] == 1).all()
    own(torch.randn(2, 16)).sum().backward()
    assert model.spare["norm"].bias.tolist() == [0, 0, 0, 0]  # the model is left alone


SPARE_LAYERS = ("body.0.weight", "body.2.weight")
