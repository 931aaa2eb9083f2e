"""Low-rank adapters: what they compute, what trains, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn
from torch.nn.functional import cross_entropy

from coordinator.algorithms.mean import Model
from coordinator.rounds.round_step import with_parts
from coordinator.settings import RunSettings
from edge_sdk.errors import TaskError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import compiled
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.parts.adapted_model import adapted, is_adapter
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.low_rank import add_adapters, fold_adapters
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.memory_limit import EngineName
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.parts import pack_apart, unpack_apart
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import pack_values, unpack_values


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(40, 1, 4, 4)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 3, size=40))


PLAIN = Task(
    name="adapted",
    model=network,
    loss=cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(1, 4, 4),
)
ADAPTERS = Adapters(rank=2, on=("3", "7"), train=("9",))
WITHOUT = RunSettings(
    federation="parts", task="parts", evaluation=Path(), densities=[0.5], rounds=1
)
ADAPTED = structs.replace(WITHOUT, adapters=ADAPTERS)


def task_with(adapters: Adapters | None = ADAPTERS, **more: Any) -> Task:
    return run_task(PLAIN, structs.replace(WITHOUT, adapters=adapters, **more))


def test_only_adapters_and_what_they_name_train_and_the_rest_stands_still() -> None:
    task = task_with()
    model = make_model(task, 1)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    factors = {f"{p}.adapter.{f}.weight" for p in "37" for f in ("down", "up")}
    assert trains == factors | {"9.weight", "9.bias"}
    assert set(task.frozen) == set(network().state_dict()) - {"9.weight", "9.bias"}
    names = [layer.name for layer in layers_of(model, task.dense_layers)]
    assert names == [n for n in model.state_dict() if n in factors] + ["9.weight"]
    plain, state = initial_state(PLAIN, 1), initial_state(task, 1)
    assert all((state[n] == plain[n]).all() for n in plain)
    inputs = torch.from_numpy(examples().inputs)
    with torch.no_grad():  # new adapters change nothing
        model.eval()
        assert (model(inputs) == make_model(PLAIN, 1).eval()(inputs)).all()
    assert run_task(task, ADAPTED).frozen == task.frozen


KINDS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(12, 9), (5, 12)),
    (nn.Conv1d(6, 8, 3, stride=2, padding=1, padding_mode="circular"), (2, 6, 11)),
    (nn.Conv2d(6, 8, (3, 5), padding="same", dilation=2, bias=False), (2, 6, 9, 9)),
    (nn.Conv2d(8, 12, 3, groups=2), (2, 8, 6, 6)),
    (nn.Conv3d(3, 5, 2, stride=(1, 2, 1)), (2, 3, 4, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), KINDS, ids=lambda x: type(x).__name__)
def test_a_folded_adapter_computes_what_it_did(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model, inputs = nn.Sequential(layer), torch.randn(shape)
    before, kind = model(inputs), type(layer)
    add_adapters(model, {"0": 2})
    nn.init.normal_(model.get_parameter("0.adapter.up.weight"))
    with torch.no_grad():
        adapted_output = model(inputs)
        assert not torch.allclose(adapted_output, before, atol=1e-2)
        assert fold_adapters(model) == ("0.weight",)
        torch.testing.assert_close(model(inputs), adapted_output)
    assert type(model[0]) is kind
    assert not [n for n in model.state_dict() if "adapter" in n]


def whole(task: Task) -> tuple[Mask, Model]:
    layers = layers_of(make_model(task, 0), task.dense_layers)
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.5), 5)
    state = initial_state(task, 1)
    masked = {n: state.pop(n)[mask[n]] for n in mask}
    return mask, with_parts(task, Model(mask, masked, state))


@pytest.mark.parametrize("engine", ["masked", "program"])
def test_a_device_trains_what_plain_torch_does_and_sends_adapters_alone(
    engine: EngineName,
) -> None:
    if engine == "program" and unavailable_reason():
        pytest.skip("no kernels")
    task = task_with()
    mask, model = whole(task)
    assert model.apart is not None
    parts, base = pack_apart(model.apart), pack_values(model.sent(mask), mask)
    rows, program = examples(), b""
    if engine == "program":
        batch = (torch.from_numpy(a[:8]) for a in (rows.inputs, rows.targets))
        program = compiled(make_model(task, 0), PLAIN.loss, *batch).file
    order = TaskOrder(
        id="1-a",
        round_no=1,
        density=mask.density,
        base=manifest_of(base),
        mask=MaskRecipe(5, dict(mask.counts), mask.digest),
        rule=Frozen(),
        training=Training(epochs=2, batch_size=40, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
        parts=manifest_of(parts),
    )
    runner = TaskRunner(PLAIN, rows, engine)  # it knows of no adapters but by the order
    update = runner.run(order, base, lambda: False, program=program, parts=parts)
    sent = unpack_values(update.payload, mask)
    assert set(sent.masked) | set(sent.dense) == {
        n for n in model.masked if is_adapter(n, model.adapters) or n == "9.weight"
    } | {"9.bias"}
    values = 4 * (sum(mask.counts.values()) + 3)
    assert values < len(update.payload) < values + 700  # names, and nothing of the rest
    torch_model = make_model(task, 1)
    state = {**model.dense, **{n: model.full(n) for n in mask}}
    torch_model.load_state_dict(
        {n: torch.from_numpy(np.array(a)) for n, a in state.items()}
    )
    inputs, targets = torch.from_numpy(rows.inputs), torch.from_numpy(rows.targets)
    for _ in range(2):
        torch_model.zero_grad()
        PLAIN.loss(torch_model.train()(inputs), targets).backward()
        with torch.no_grad():
            for name, own in torch_model.named_parameters():
                if own.grad is not None:
                    own.sub_(0.1 * own.grad)
                if name in mask.layers:
                    own.mul_(torch.from_numpy(np.array(mask[name])))
    for name, change in {**sent.masked, **sent.dense}.items():
        end = torch_model.state_dict()[name].numpy()
        end = end[mask[name]] if name in mask.layers else end
        start = model.masked.get(name, model.dense.get(name))
        np.testing.assert_allclose(start + change, end, rtol=1e-3, atol=1e-5)


def test_adapters_travel_in_the_blob_and_one_without_has_the_bytes_it_had() -> None:
    _, model = whole(task_with())
    apart = model.apart
    assert apart is not None
    assert unpack_apart(pack_apart(apart)).adapters == {"3": 2, "7": 2}
    assert b"adapters" not in pack_apart(replace(apart, adapters={}))


def test_a_device_with_another_model_names_the_layer() -> None:
    other = adapted(lambda: nn.Sequential(nn.Linear(4, 4)), {"blocks.1": 2})
    with pytest.raises(TaskError, match=r"an adapter on layer blocks\.1"):
        other()


@pytest.mark.parametrize(
    ("adapters", "more", "told"),
    [
        ({"on": ["haed"]}, {}, "adapters.on has 'haed', which matches no layer"),
        ({"on": ["1"]}, {}, "adapters.on has '1', which matches no layer"),  # a norm
        ({"on": ["0"], "rank": 5}, {}, "rank 5 is too large for 0: .* 85 .* has 72"),
        ({"on": ["9"], "rank": 3}, {}, "rank 3 is too large for 9: .* 57 .* has 48"),
        ({"on": ["*"], "rank": 99}, {}, "rank 99 is too large for 0"),
        ({"train": ["nine"]}, {}, "adapters.train has 'nine', which matches nothing"),
        ({"train": ["3"]}, {}, "3.weight is in adapters.train, and under an adapter"),
        ({"train": ["*"]}, {}, "adapters.train matches every entry"),
        ({}, {"frozen": ["9"]}, "9.weight is frozen, and trains with adapters"),
        ({}, {"frozen": ["3.adapter"]}, "3.adapter.down.weight is frozen"),
        ({}, {"personal": ["9"]}, "9.weight is personal, and trains with adapters"),
        ({}, {"personal": ["7"]}, "7.weight is personal, and is under an adapter"),
        ({}, {"personal": ["*.up.*"]}, "3.adapter.up.weight is personal"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_meant_are_named(
    adapters: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    given = {"rank": 2, "on": ["3", "7"], "train": ["9"], **adapters}
    asked = Adapters(**{k: tuple(v) if k != "rank" else v for k, v in given.items()})
    with pytest.raises(TaskError, match=told) as caught:
        task_with(asked, **more)
    assert caught.value.help


def test_a_model_without_such_layers_says_so() -> None:
    task = replace(PLAIN, model=lambda: nn.LSTM(4, 4))
    with pytest.raises(TaskError, match="no layer that can have") as caught:
        run_task(task, ADAPTED)
    assert "the model has none" in caught.value.help


def test_a_frozen_pattern_beside_adapters_and_a_personal_head_go_together() -> None:
    task = task_with(Adapters(rank=2, on=("3",)), frozen=["0"], personal=["9"])
    assert set(task.personal) == {"9.weight", "9.bias"}
    trains = {n for n, p in make_model(task, 0).named_parameters() if p.requires_grad}
    assert trains == {f"3.adapter.{f}.weight" for f in ("down", "up")} | {
        *task.personal
    }


def saved(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def test_a_start_file_has_the_plain_models_names_and_adapters_begin_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {n: t + 1 for n, t in network().state_dict().items()}
    task = task_with(start=saved(tmp_path / "a.pt", state))
    found = initial_state(task, 1)
    assert all((found[n] == t.numpy()).all() for n, t in state.items())
    assert not found["7.adapter.up.weight"].any()
    assert "does not have" not in caplog.text
    state.pop("0.bias")
    with pytest.raises(TaskError, match=r"does not have 0\.bias, which nobody trains"):
        task_with(start=saved(tmp_path / "b.pt", state))
    state.update({n: torch.from_numpy(a) for n, a in found.items()})
    assert set(
        initial_state(task_with(start=saved(tmp_path / "c.pt", state)), 1)
    ) == set(found)


def test_an_adapter_of_a_shared_weight_leaves_the_other_name_as_it_is() -> None:
    embedding, head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    add_adapters(model, {"head": 2})
    nn.init.ones_(model.get_parameter("head.adapter.up.weight"))
    before = embedding.weight.detach().clone()
    fold_adapters(model)
    assert (embedding.weight == before).all()
    assert not torch.allclose(head.weight, before)
